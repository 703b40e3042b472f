"""README tells the truth: its options are the command's options, and its commands run as printed."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from hytrec.contract import StateStatus
from hytrec_benchmarks.fixtures.bounds import BOUNDS, misses
from hytrec_benchmarks.quality.plan import VARIATIONS
from hytrec_benchmarks.quality.report import markdown_page
from hytrec_export.cli.app import app
from hytrec_export.server.metrics_endpoint import ServerRecord
from hytrec_export.serving.counters import ServerCounter
from hytrec_export.serving.request_metrics import FAMILIES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REPORTS = ROOT / "reports"
BIN = Path(sys.executable).parent
DEFAULT_PORTS = (8000, 8001, 8002)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def options_of_table(command: str) -> dict[str, str]:
    table = README.split(f"`{command}`:\n\n", 1)[1].split("\n\n", 1)[0]
    options: dict[str, str] = {}
    for line in table.splitlines()[2:]:
        names, defaults, _ = (cell.strip() for cell in line.strip("|").split("|", 2))
        values = [value.strip(" `") for value in defaults.split(",")]
        options |= dict(zip(re.findall(r"--[a-z][a-z0-9-]+", names), values * 3, strict=False))
    return options


@pytest.mark.parametrize("command", ["hytrec-export build RUN", "hytrec-export serve REPOSITORY"])
def test_the_option_tables_are_those_of_the_commands(command: str) -> None:
    group = get_command(app)
    parameters = group.commands[command.split()[1]].params  # type: ignore[attr-defined]
    expected = {
        parameter.opts[0]: "" if parameter.default in (None, False) else f"{parameter.default}".removesuffix(".0")
        for parameter in parameters
        if parameter.opts[0].startswith("--")
    }
    assert options_of_table(command) == expected


def test_the_states_are_those_of_the_contract() -> None:
    table = re.findall(r"^\| (\d) \| `(\w+)` \|", README, re.MULTILINE)
    assert table == [(str(status.value), status.name.lower()) for status in StateStatus]


def test_the_metrics_are_those_of_the_server() -> None:
    record = ServerRecord(ROOT)
    record.info = {"version": "1"}
    own = set(re.findall(r"^# TYPE (\w+) ", record.text(), re.MULTILINE))
    listed = set(re.findall(r"^\| (`hytrec_.+?`) \|", README, re.MULTILINE))
    names = {name for cell in listed for name in re.findall(r"`(hytrec_\w+)`", cell)}
    assert names == {counter.value for counter in ServerCounter} | own | {family.name for family in FAMILIES}


def test_the_quality_table_is_the_reports() -> None:
    report = json.loads((REPORTS / "quality.json").read_text())
    assert (REPORTS / "quality.md").read_text() == markdown_page(report)
    names = quality_table().splitlines()[0].strip("| ").split(" | ")
    for place, name in enumerate(names):
        log = report["logs"][name]
        for model, row in {**log["models"], **log["baselines"], **log["learned_baselines"]}.items():
            if (cells := re.findall(rf"^\| {model} \| (.*) \|$", quality_table(), re.MULTILINE)) == []:
                continue
            cell = cells[0].split(" | ")[place]
            value = row["ndcg@10"]
            expected = [*value.values()] if isinstance(value, dict) else [value]
            assert re.findall(r"\.\d{4}", cell) == [f"{number:.4f}"[1:] for number in expected]
    for model in ("HyTRec, retrieve-then-rerank", "no encoder, retrieve-then-rerank", "proximity-knn"):
        assert f"| {model} |" in quality_table()


def test_the_other_protocols_are_the_reports() -> None:
    report = json.loads((REPORTS / "quality.json").read_text())
    paragraph = README.split("Leave-last-out lets", 1)[1].split("\n\n", 1)[0].replace("\n", " ")
    for log in VARIATIONS:
        for rival in ("recent_knn", "proximity_knn"):
            ratio, error = (report[f"quality_over_{rival}_{log.key}{ending}"] for ending in ("", "_error"))
            assert f"{ratio:.2f} ± {error:.2f}" in paragraph
    assert f"{report['quality_users_ml100k_time']:.0f} users are left" in paragraph


def test_what_was_served_is_the_reports() -> None:
    served = json.loads((REPORTS / "quality_served.json").read_text())
    assert json.loads((REPORTS / "quality.json").read_text())["served"] == served
    for log in served["logs"].values():
        whole = log["HyTRec"]
        for name in ("HyTRec, lean reranker", "no encoder"):
            assert f"{whole['core_ms'] / log[name]['core_ms']:.2f}" in README


def test_the_planted_table_is_the_reports() -> None:
    report = json.loads((REPORTS / "planted.json").read_text())
    assert f"{report['planted_users_1000']} users each" in README
    table = README.split("| N, views before the return |", 1)[1].split("\n\n", 1)[0]
    assert re.findall(r"^\| ([\d,]+) \| (\.\d+) \| (\.\d+) \| (.+) \|$", table, re.MULTILINE) == [
        (
            f"{distance:,}",
            *(f"{report[f'planted_ndcg10_{branch}_{distance}']:.4f}"[1:] for branch in ("both", "short")),
            " ± ".join(f"{report[f'planted_long_over_short_{distance}{ending}']:.1f}" for ending in ("", "_error")),
        )
        for distance in report["log"]["distances"]
    ]


def test_the_recovery_times_are_the_reports() -> None:
    recovery, topology = (json.loads((REPORTS / f"{name}.json").read_text()) for name in ("recovery", "topology"))
    drills = [name.removesuffix("_rounds") for name in recovery if name.endswith("_rounds")]
    measured = [
        (
            recovery[f"{name}_rounds"],
            recovery[f"{name}_slowest_request_s"],
            recovery[f"{name}_median_slowest_request_s"],
        )
        for name in drills
    ]
    measured += [(1, *[topology[f"topology_{name}_slowest_s"]] * 2) for name in ("roll", "kill", "failover")]
    table = README.split("| while | times |", 1)[1].split("\n\n", 1)[0]
    shown = re.findall(r"\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE)
    assert sorted(shown) == sorted((str(times), f"{most:.2f}", f"{middle:.2f}") for times, most, middle in measured)
    assert misses({name: topology[name] for name in topology if name in BOUNDS}) == []
    design = (ROOT / "docs" / "DESIGN.md").read_text()
    assert f"{topology['topology_requests']:,} requests none failed" in design
    assert f"of {topology['topology_responses_compared']} responses of both models" in design
    assert {name for name in BOUNDS if name.startswith("topology_")} <= set(topology)


def quality_table() -> str:
    """README's table of NDCG@10, a row for every model and a column for every log."""
    return README.split("| NDCG@10 |", 1)[1].split("\n\n", 1)[0]


@contextmanager
def serving(command: str, folder: Path, credentials: str = "") -> Iterator[None]:
    with (
        (folder / "serve.log").open("w") as log,
        subprocess.Popen(run_by(command), cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            ready = f"hytrec-client ready --wait 120 {credentials}"
            subprocess.run(run_by(ready), cwd=folder, check=True, capture_output=True)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0, (folder / "serve.log").read_text()


def run_by(command: str) -> list[str]:
    program, *arguments = shlex.split(command)
    return [str(BIN / program), *arguments]


def run(command: str, folder: Path) -> str:
    done = subprocess.run(run_by(command), cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write_events(path: Path) -> None:
    generator = np.random.default_rng(5)
    items = ["A-17", "B-4", "C-9", *(f"D-{number}" for number in range(37))]
    with path.open("w") as file:
        file.write("customer,sku,ts\n")
        for customer in range(60):
            time = 1_600_000_000 + customer
            for _ in range(generator.integers(3, 20)):
                time += int(generator.integers(1, 100_000))
                file.write(f"c{customer},{generator.choice(items)},{time}\n")


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


SMALL_MODEL = """
width = 18
heads = 3
tadn-layers = 1
softmax-layers = 1
window = 5
experts = 1
neighbors = 8
branches = "short"
"""
"""Odd sizes and an ablation, so that a build shows that such pass the gate."""


@pytest.mark.e2e
@pytest.mark.parametrize(
    "sizes",
    [SMALL_MODEL, pytest.param("", marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
    ids=["small", "default"],
)
def test_the_commands_run_as_printed(sizes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [port for port in DEFAULT_PORTS if not free(port)]
    if taken:
        pytest.skip(f"README's commands use the default ports, and port {taken[0]} is taken on this machine")
    write_events(tmp_path / "events.csv")
    (tmp_path / "sizes.toml").write_text(sizes)
    monkeypatch.setenv("HYTREC_TRAIN_CONFIG", str(tmp_path / "sizes.toml"))
    building, calling, networked = (commands_of(block) for block in blocks("sh")[1:])
    assert building[-1].startswith("hytrec-export serve")
    printed = [run(command, tmp_path) for command in building[:-1]]
    assert "item-knn" in printed[1]
    assert "not ok" not in printed[-1]
    with serving(building[-1], tmp_path):
        for command in calling:
            run(command, tmp_path)
        assert run_script(blocks("python")[0], tmp_path).endswith(" 4")
    certificates, networked_serve, call = networked
    run(certificates, tmp_path)
    credentials = call[call.index("--url") :]
    with serving(networked_serve, tmp_path, credentials):
        assert "event count: 0" in run(call, tmp_path)  # the last of the calls before was forget
        assert run_script(blocks("python")[1], tmp_path) == "0"
        plain = subprocess.run(run_by(f"{call.partition(' --url')[0]} --timeout 1"), check=False, capture_output=True)
        assert b"the server closes every connection, as one does that wants TLS" in plain.stderr


def commands_of(block: str) -> list[str]:
    return block.replace("\\\n", "").strip().splitlines()


def run_script(script: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_first_two_commands_are_the_whole_set_up() -> None:
    assert blocks("sh")[0].strip().splitlines() == ["make demo", "make test"]
