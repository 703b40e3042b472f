from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import Model
from hytrec.errors import RunError
from hytrec.run_folder import load_run
from hytrec.signature import GRAPHS, SESSION_GRAPHS
from hytrec_export import optional, pipeline
from hytrec_export.errors import BuildError, MissingPackageError, ParityError
from hytrec_export.options import BuildOptions, Samples, StateKind, TablePrecision, Target
from hytrec_export.repository.manifest import Manifest
from hytrec_export.settings import Limits, ServingSettings
from hytrec_export.verification.findings import all_ok
from hytrec_export.verification.parity.gate import SYNTHETIC_EVENTS, ParityResult
from hytrec_export.verification.parity.golden import FILE_NAME, load
from hytrec_export.verification.quality.bounds import QualityBounds
from hytrec_export.verification.quality.gate import check_quality
from hytrec_export.verification.repository import verify

KILLED_BUILD = Path(__file__).parent / "builders" / "killed_build.py"


@pytest.fixture
def quick(built: Path, graphs_from: Any) -> Iterator[None]:
    """Builds take their graphs and their parity from the one that was made for all."""
    with graphs_from(built):
        yield


def test_a_build_carries_the_runs_vocabulary_and_the_options_limits(built: Path, run_folder: Path) -> None:
    settings = ServingSettings.load(built)
    assert settings.limits == Limits(max_events=200, max_candidates=40, max_excluded=20, max_batch=4)
    assert settings.fingerprint == Manifest.load(built).fingerprint
    assert (built / "vocabulary.npz").read_bytes() == (run_folder / "vocabulary.npz").read_bytes()


def test_a_build_verifies(built: Path) -> None:
    assert all_ok(verify(built))


def nothing_begins(step: str, total: int) -> Any:
    raise AssertionError(f"{step} of {total} began")


def test_a_missing_package_is_told_before_anything_is_made(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == "onnxruntime" else object())
    message = r"^onnxruntime is not installed; run: pip install 'hytrec-export\[embedded\]'$"
    with pytest.raises(MissingPackageError, match=message):
        pipeline.build(BuildOptions(run=run_folder, output=tmp_path / "repository"), progress=nothing_begins)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
def test_an_old_repository_is_replaced_and_its_readme_kept(run_folder: Path, repository: Path) -> None:
    (repository / "README.md").write_text("mine")
    (repository / "hytrec_rank" / "config.pbtxt").unlink()
    pipeline.build(BuildOptions(run=run_folder, output=repository))
    assert (repository / "README.md").read_text() == "mine"
    assert ServingSettings.load(repository).limits == Limits()
    assert all_ok(verify(repository))
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]


def test_half_precision_stores_half_and_verifies(
    run_folder: Path, built: Path, graphs_from: Any, tmp_path: Path
) -> None:
    output = tmp_path / "repository"
    limits = ServingSettings.load(built).limits
    with graphs_from(built, parity=False):
        manifest = pipeline.build(
            BuildOptions(run=run_folder, output=output, target=Target.EMBEDDED, fp16=True, limits=limits)
        )
    assert manifest.options["precision"] == "float16-weights"
    assert manifest.quality is not None
    assert 0 < manifest.quality["score"] <= manifest.bound
    halved, whole = (
        sum(file.size_bytes for name, file in files.items() if name.endswith(".onnx"))
        for files in (manifest.files, Manifest.load(built).files)
    )
    assert halved < whole
    assert all_ok(verify(output))


def check_told_and_verified(output: Path, manifest: Manifest, tables: str, precision: str) -> None:
    assert manifest.options["table_precision"] == tables
    assert manifest.quality is not None
    assert 0 < manifest.quality["score"] <= manifest.bound
    assert manifest.quality["drift"]["appends"] > 50
    assert ServingSettings.load(output).precision == precision  # states of others are not used
    assert all_ok(verify(output))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("options", "tables", "precision"),
    [
        ({"table_precision": TablePrecision.FLOAT16}, "float16", "float32-float16-tables"),
        ({"table_precision": TablePrecision.FLOAT32, "fp16": True}, "float32", "float16-weights-float32-tables"),
    ],
    ids=["float16", "float32 beside float16 weights"],
)
def test_tables_in_fewer_bits_are_compared_told_and_verified(
    options: dict[str, Any], tables: str, precision: str, run_folder: Path, built: Path, tmp_path: Path
) -> None:
    output, limits = tmp_path / "repository", ServingSettings.load(built).limits
    manifest = pipeline.build(BuildOptions(run=run_folder, output=output, limits=limits, **options))
    check_told_and_verified(output, manifest, tables, precision)
    told = replace(manifest, parity=Manifest.load(built).parity).summary_lines()
    assert f" with {tables} tables, " in told[0]


@pytest.mark.usefixtures("quick")
def test_tables_of_8_bits_are_compared_and_verified(
    run_folder: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = partial(QualityBounds, score=0.2)  # rows of a tiny model are too narrow for the bound of real ones
    monkeypatch.setattr(pipeline, "QualityBounds", wide)
    monkeypatch.setattr(pipeline, "check_quality", partial(check_quality, bounds=wide()))
    output, limits = tmp_path / "repository", ServingSettings.load(built).limits
    options = BuildOptions(run=run_folder, output=output, limits=limits, table_precision=TablePrecision.INT8)
    check_told_and_verified(output, pipeline.build(options), "int8", "float32-int8-tables")


@pytest.mark.usefixtures("quick")
def test_a_build_that_would_not_verify_is_refused(run_folder: Path, built: Path, tmp_path: Path) -> None:
    options = BuildOptions(
        run=run_folder,
        output=tmp_path / "repository",
        limits=ServingSettings.load(built).limits,
        table_precision=TablePrecision.INT8,  # passes the gate, though rows are narrow
    )
    with pytest.raises(
        BuildError,
        match=r"the repository would not verify: .* differs from PyTorch: history scores .*; nothing was replaced; "
        "build without --fp16 and with --table-precision float32$",
    ):
        pipeline.build(options)
    assert not options.output.exists()


@pytest.mark.usefixtures("quick")
def test_steps_are_told(run_folder: Path, tmp_path: Path) -> None:
    steps: list[str] = []

    class Told:
        def __init__(self, step: str, total: int) -> None:
            assert total > 0
            steps.append(step)

        def __enter__(self) -> Any:
            return lambda _: None

        def __exit__(self, *_: object) -> None:
            pass

    pipeline.build(BuildOptions(run=run_folder, output=tmp_path / "repository"), progress=Told)
    assert steps == ["exporting the graphs in float32", "comparing with PyTorch"]


@pytest.mark.usefixtures("quick")
def test_a_build_that_drifts_leaves_the_old_repository(
    run_folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Manifest.load(repository)

    def drifts(*_: object, **__: object) -> ParityResult:
        raise ParityError("drifts")

    monkeypatch.setattr(pipeline, "check_parity", drifts)
    with pytest.raises(ParityError):
        pipeline.build(BuildOptions(run=run_folder, output=repository))
    assert Manifest.load(repository) == before
    assert all_ok(verify(repository))
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("state", "graphs"), [(StateKind.STORE, GRAPHS), (StateKind.SEQUENCE, SESSION_GRAPHS)], ids=["store", "sequence"]
)
def test_only_graphs_of_sessions_carry_the_state(
    state: StateKind, graphs: tuple[Model, ...], run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_graphs: Callable[..., dict[str, Path]] = vars(pipeline)["export_graphs"]
    exported: list[Any] = []

    def noted(*arguments: Any, **options: Any) -> dict[str, Path]:
        exported.append(options["graphs"])
        return export_graphs(*arguments, **options)

    monkeypatch.setattr(pipeline, "export_graphs", noted)
    pipeline.build(BuildOptions(run=run_folder, output=tmp_path / "new", target=Target.ONNXRUNTIME, state=state))
    assert exported == [graphs]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", ["letter.txt", "hytrec_rank/1/letter.txt"])
def test_a_file_that_comes_during_the_build_is_not_lost(
    place: str, run_folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Manifest.load(repository)
    passed: Callable[..., ParityResult] = vars(pipeline)["check_parity"]

    def somebody_writes(*arguments: Any, **options: Any) -> ParityResult:
        (repository / place).write_text("dear")
        return passed(*arguments, **options)

    monkeypatch.setattr(pipeline, "check_parity", somebody_writes)
    message = f"{repository} is not replaced, it holds {place}, which no build wrote; move it away or choose another "
    with pytest.raises(BuildError, match=f"^{re.escape(message)}--output$"):
        pipeline.build(BuildOptions(run=run_folder, output=repository))
    assert (repository / place).read_text() == "dear"
    assert Manifest.load(repository) == before
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]


def test_golden_outputs_are_for_the_owner_alone(built: Path) -> None:
    assert (built / FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("fp16", [False, True])
def test_a_build_can_leave_users_histories_out(
    fp16: bool, run_folder: Path, built: Path, graphs_from: Any, tmp_path: Path
) -> None:
    output = tmp_path / "repository"
    options = BuildOptions(
        run=run_folder,
        output=output,
        target=Target.ONNXRUNTIME,
        samples=Samples.SYNTHETIC,
        fp16=fp16,
        limits=ServingSettings.load(built).limits,
    )
    with graphs_from(built, parity=False):
        assert pipeline.build(options).options["samples"] == "synthetic"
    times = {tuple(sample.times.tolist()) for sample in load_run(run_folder).samples if len(sample)}
    stored = [case.history for case in load(output / FILE_NAME)]
    assert [len(history) for history in stored] == list(SYNTHETIC_EVENTS)
    assert not times & {tuple(history.times.tolist()) for history in stored}
    assert all_ok(verify(output))


def test_a_missing_run_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run folder"):
        pipeline.build(BuildOptions(run=tmp_path / "run", output=tmp_path / "repository"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_ours_is_told_before_the_long_part(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(BuildError, match=r"is not replaced, it holds letter\.txt"):
        pipeline.build(BuildOptions(run=run_folder, output=tmp_path))


@pytest.mark.parametrize(
    ("how", "status"),
    [
        pytest.param(how, status, marks=pytest.mark.xdist_group(name=f"build stopped by {how}"))
        for how, status in (("kill", -9), ("interrupt", 2), ("full", 3))
    ],
)
def test_whenever_a_build_is_stopped_a_whole_repository_stands(
    how: str, status: int, run_folder: Path, built: Path, repository: Path
) -> None:
    before = Manifest.load(repository).built_at
    arguments = [run_folder, built, repository, how]
    done = subprocess.run(
        [sys.executable, KILLED_BUILD, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    children = [json.loads(line) for line in done.stdout.splitlines()]
    stopped, last = children[:-1], children[-1]
    assert all(one["whole"] for one in children)
    assert {one["status"] for one in stopped} == {status}
    assert {one["built_at"] for one in stopped} >= {before}
    assert last["status"] == 0
    assert last["beside"] == []  # the next build clears what the last one left
    assert len(stopped) > 30
    if how != "kill":
        assert sum(len(one["beside"]) for one in stopped) <= 1  # stopped after making its folder, before locking it
