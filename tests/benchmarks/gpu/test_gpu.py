"""The script for a GPU machine, rehearsed on the CPU: the same code, small sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hytrec_benchmarks.gpu.__main__ import main
from hytrec_benchmarks.gpu.bundle import MAX_BYTES, Bundle, BundleError
from hytrec_benchmarks.gpu.checks import CHECKS, Planned
from hytrec_benchmarks.gpu.device import Device, describe
from hytrec_benchmarks.gpu.goals import held_against
from hytrec_benchmarks.gpu.model_steps import EVENTS, Steps, no_state
from hytrec_benchmarks.gpu.parity_checks import differences
from hytrec_benchmarks.gpu.prepare import prepare
from hytrec_benchmarks.gpu.report import write_report
from hytrec_benchmarks.gpu.results import find, read_lines
from hytrec_benchmarks.gpu.runner import run_check, run_checks
from hytrec_export.exporters.mixed_precision import to_mixed_precision

HEADER = {"card": "Card 9", "started": "2026-01-02T03:04:05+00:00", "cuda": "13.0", "python": "3.12", "versions": {}}
BARE = """
import sys
from hytrec_benchmarks.gpu.checks import CHECKS
heavy = {"isal", "rich", "typer", "msgspec", "psutil", "onnx", "onnxscript", "onnxruntime", "tritonclient",
         "duckdb", "pyarrow", "scipy", "safetensors", "matplotlib", "grpc", "jinja2", "tensorrt_rtx"}
for name in heavy:
    sys.modules[name] = None
import hytrec_benchmarks.gpu.__main__, hytrec_benchmarks.gpu.runner, hytrec_benchmarks.gpu.report
for check in CHECKS:
    check.load()
"""


@pytest.fixture(scope="module")
def rehearsed(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Records of all checks, in this process."""
    output = tmp_path_factory.mktemp("rehearsed") / "results.jsonl"
    for check in CHECKS:
        run_check(check.name, bundle.folder, output, device="cpu", quick=True)
    return read_lines(output)


def test_the_folder_can_travel_and_says_what_it_is(bundle: Bundle, run_folder: Path) -> None:
    size = sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file())
    assert size < MAX_BYTES
    assert {path.name for path in bundle.folder.iterdir()} == {
        "CARRY.md",
        "bundle.json",
        "cases.npz",
        "graphs",
        "weights.npz",
    }
    assert set(bundle.graphs()) == {"fused-float32", "chunked-float32", "chunked-mixed-float16"}
    assert {0, 1, 63, 64, 65, 200} <= {len(case) for case in bundle.cases}
    with pytest.raises(BundleError, match="exists; name a folder that does not"):
        prepare(run_folder, bundle.folder, say=lambda _: None)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_measures_something(check: Planned, rehearsed: list[dict[str, Any]]) -> None:
    own = [record for record in rehearsed if record["check"] == check.name]
    assert own
    for record in own:
        assert record["value"] is None or np.isfinite(record["value"]), record
        assert record["value"] is not None or record["note"]


def test_float32_agrees_with_float64_on_every_case(bundle: Bundle, rehearsed: list[dict[str, Any]]) -> None:
    measured = len(find(rehearsed, "state_max_rel_diff", precision="float32", runtime="pytorch"))
    assert measured == len(bundle.cases)
    (state,) = find(rehearsed, "worst_state_max_rel_diff", precision="float32", runtime="pytorch")
    (score,) = find(rehearsed, "worst_score_max_abs_diff", precision="float32", runtime="pytorch")
    assert 0 < state < 1e-4
    assert 0 < score < 1e-4
    (mixed,) = find(rehearsed, "worst_score_max_abs_diff", precision="mixed-float16", runtime="pytorch")
    assert score < mixed < 0.1
    assert find(rehearsed, "padding_changed_numbers") == find(rehearsed, "batch_mates_changed_numbers") == [0, 0]
    assert max(find(rehearsed, "stream_state_max_rel_diff", precision="float32")) < 1e-4


def test_a_wrong_output_is_seen_and_so_is_one_that_is_no_number(bundle: Bundle) -> None:
    case = bundle.cases[-1]
    best = np.argsort(-case.catalogue[1:-1])[:10] + 1
    right = differences(case, state=case.state, rows=best, scores=case.scores.astype(np.float32))
    assert right["retrieved_score_max_abs_diff"] == 0
    assert right["top10_overlap"] == 1
    wrong = differences(case, state=case.state, rows=best[::-1], scores=-case.scores.astype(np.float32))
    assert wrong["retrieved_score_max_abs_diff"] > 0
    assert wrong["top10_overlap"] < 1
    scores = case.scores.astype(np.float32)
    scores[1] = np.nan
    assert differences(case, state=case.state, rows=best, scores=scores)["score_max_abs_diff"] == np.inf


def test_checks_run_in_processes_of_their_own_within_their_time(bundle: Bundle, tmp_path: Path) -> None:
    checks = [
        Planned(name="machine_rates", module="speed_checks", limit_s=120),
        Planned(name="machine_rates", module="speed_checks", limit_s=0.1),
    ]
    output = tmp_path / "results.jsonl"
    said: list[str] = []
    records = run_checks(bundle.folder, output, device="cpu", minutes=5, quick=True, checks=checks, say=said.append)
    assert records[0]["card"].startswith("CPU")
    assert records[0]["bundle"]["fingerprint"] == bundle.description["fingerprint"]
    assert [record["outcome"] for record in records if "outcome" in record] == ["done", "left out: the time is over"]
    assert find(records, "copy_gb_per_s")[0] > 0
    assert len(said) == 2


def test_a_check_that_fails_or_hangs_is_told_and_the_others_go_on(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hanging(command: list[str], **options: Any) -> Any:
        if command[4] == "hangs":
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, 139, stderr="CUDA error: out of memory")

    monkeypatch.setattr(subprocess, "run", hanging)
    checks = [Planned(name=name, module="speed_checks", limit_s=60) for name in ("hangs", "dies")]
    records = run_checks(
        bundle.folder, tmp_path / "r.jsonl", device="cpu", minutes=5, quick=True, checks=checks, say=lambda _: None
    )
    outcomes = {record["check"]: record for record in records if "outcome" in record}
    assert outcomes["hangs"]["outcome"] == "ended at its limit of 60 s"
    assert outcomes["dies"]["outcome"] == "failed with 139"
    assert "out of memory" in outcomes["dies"]["stderr"]


def test_a_bare_machine_has_torch_and_numpy_alone() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class HostCopies(TorchDispatchMode):
    """Notes what puts a tensor of the host onto the device: a CUDA graph cannot capture it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        onto = isinstance(result, Tensor) and result.device.type == "meta"
        if onto and any(tensor.device.type == "cpu" and tensor.dim() for tensor in tensors):
            self.found.append(str(func))
        return result


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "mixed"])
def test_every_step_stays_on_the_device(bundle: Bundle, mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which needs no GPU: once warm, nothing comes from the host: it can be captured."""
    model = bundle.model()
    model = to_mixed_precision(model) if mixed else model
    device = torch.device("meta")
    steps = Steps(model, device=device)
    state = no_state(bundle.config.sizes(), 2, device)
    events = {name: torch.ones((2, 70), dtype=torch.int64, device=device) for name in EVENTS}
    now_s = torch.ones((2, 1), dtype=torch.int64, device=device)
    rows = torch.ones((2, 5), dtype=torch.int64, device=device)
    steps.encode(state, events)
    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, name, lambda *_, **__: pytest.fail("made on the host"))
    with HostCopies() as copies:
        user = steps.encode(state, events)
        best, scores = steps.retrieve(user, now_s, rows), steps.rerank(user, now_s, rows)
    assert {tensor.device.type for tensor in (*user.values(), best, scores)} == {device.type}
    assert copies.found == []


def test_graphs_need_a_gpu() -> None:
    with pytest.raises(RuntimeError, match="CUDA graphs need a GPU"):
        Device("cpu").captured(lambda feed: feed, {})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_captured_step_gives_what_the_eager_one_does() -> None:
    device = Device("cuda")
    inputs = [{"x": torch.full((3,), float(value), device="cuda")} for value in range(4)]
    replay = device.captured(lambda feed: feed["x"] * 2, inputs[0])
    assert [replay(feed).tolist() for feed in inputs] == [[2.0 * value] * 3 for value in range(4)]


def test_without_a_gpu_run_says_what_to_do(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(["run", str(bundle.folder)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: PyTorch ")
    assert error.endswith("finds no GPU; install its CUDA build, or rehearse with --device cpu --quick\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"is no folder of `hytrec_benchmarks.gpu prepare` \(bundle.json: .*; prepare one"),
        ("{", r"is no folder of `hytrec_benchmarks.gpu prepare`"),
        ('{"format_version": 1}', r"is of another version than 2; prepare the folder again"),
        ('{"format_version": 2}', r"describes no model \('model'\); prepare it again"),
    ],
)
def test_another_folder_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        _ = Bundle(tmp_path).config


def test_a_run_that_was_cut_short_keeps_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"card": "x"}\n{"figure": "a", "val')
    assert read_lines(path) == [{"card": "x"}]
    path.write_text('{"card"\n{"figure": "a"}\n')
    with pytest.raises(BundleError, match=r"line 1, is no JSON .*; give a file of `run --output`"):
        read_lines(path)
    path.write_text("[1]\n")
    with pytest.raises(BundleError, match=r"line 1, is no record; give a file of `run --output`"):
        read_lines(path)
    with pytest.raises(BundleError, match=r"cannot be read \(No such file or directory\)"):
        read_lines(tmp_path / "none")


def record(figure: str, value: float | None, **of: Any) -> dict[str, Any]:
    return {"check": "c", "figure": figure, "value": value, "of": of}


def test_results_are_held_against_the_goals() -> None:
    records = [
        record("encode_ms", 1.4, events=10_000, batch=1),
        record("encode_events_per_s", 4e6, batch=64),
        record("append_and_rank_ms", 0.3, batch=1, mode="cuda-graph"),
        record("append_and_rank_ms", 0.1, batch=1, mode="compiled"),
        record("append_and_rank_ms", 0.05, batch=1, mode="eager"),
        record("append_after_ms", 1.0, precision="float32", mode="cuda-graph", history=10),
        record("append_after_ms", 1.04, precision="float32", mode="cuda-graph", history=10_000),
        record("softmax_rank_ms", 30.0, history=10_000, batch=1),
        record("softmax_rank_ms", 160.0, history=10_000, batch=8),
        record("hytrec_rank_ms", 1.0, history=10_000, batch=1),
        record("hytrec_rank_ms", 6.4, history=10_000, batch=64),
        record("worst_score_max_abs_diff", None, precision="float32", runtime="pytorch"),
    ]
    rows = {text: (value, verdict) for text, _, value, verdict in held_against(records)}
    assert rows["10,000 events at batch 1, ms"] == ("1.4", "holds")
    assert rows["events a second at batch 64"] == ("4e+06", "**missed**")
    assert rows["one event and 500 candidates by CUDA graph, ms"] == ("0.1", "holds")
    assert rows["one event after any history: largest time over smallest, less one"] == ("0.04", "holds")
    assert rows["rankings a second after 10,000 events over softmax attention's"] == ("200", "holds")
    assert rows["float32 scores against float64"] == ("", "not measured")


def test_a_report_has_a_section_for_every_card_and_a_picture(tmp_path: Path) -> None:
    results = []
    for card in ("Card 9", "Card 10"):
        path = tmp_path / f"{card}.jsonl"
        lines = [
            HEADER | {"card": card, "nvidia_smi": {"driver_version": "600.1", "clocks.sm": "1000 MHz"}},
            record("matrix_tflop_per_s", 50.0, dtype="float32"),
            record("copy_gb_per_s", 4_000.0),
            record("encode_ms", 0.5, events=100, runs=3),
            record("encode_peak_mib", 7.0, events=100),
            record("encode_tflop_per_s", 5.0, events=100, runs=3),
            record("encode_least_gb_per_s", 100.0, events=100, runs=3),
            record("encode_ms", None, events=200) | {"note": "out | of memory"},
            record("hytrec_rank_ms", 0.5, history=100, batch=1),
            record("softmax_rank_ms", 2.5, history=100, batch=1),
            record("worst_state_max_rel_diff", None, runtime="tensorrt") | {"note": "not installed"},
            {"check": "headline", "outcome": "done", "seconds": 12.0},
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        results.append(path)
    page = tmp_path / "docs" / "gpu_results.md"
    assert main(["report", *map(str, results), "--page", str(page), "--images", str(page.parent / "images")]) == 0
    text = page.read_text()
    assert text.index("## Card 9, 2026-01-02") < text.index("## Card 10, 2026-01-02")
    assert "driver 600.1" in text
    assert "### c: hytrec_rank\n\n| history | batch | median, ms |\n| --- | --- | --- |\n| 100 | 1 | 0.5 |\n" in text
    assert "| median, ms | peak, MiB | TFLOP/s | GB/s at least | of the float32 product | of the copy |\n" in text
    assert "| 100 | 0.5 | 7 | 5 | 100 | 10.0% | 2.5% |\n" in text
    assert "| 200 | out / of memory |  |  |  |  |  |\n" in text
    assert "| worst_state_max_rel_diff | runtime tensorrt | not installed |" in text
    assert "| headline | done | 12.0 |" in text
    assert (page.parent / "images" / "gpu_cost_by_history.png").read_bytes().startswith(b"\x89PNG")
    results[0].write_text('{"figure": "a"}\n')
    with pytest.raises(BundleError, match="does not begin with the card it was measured on"):
        write_report(results, page, page.parent)


def test_the_device_is_described() -> None:
    found = describe("cpu")
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0] or found["versions"]["torch"]
    assert found["cores"] >= 1
