"""The load test as a measure runs it; the program is made up."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from hytrec_export.errors import LoadTestError
from hytrec_export.server.installation import MALLOC
from measures import load
from measures.context import Context
from measures.load_test import environment, over_in_process

PROGRAM = """
import json, pathlib, sys
status, ratio, difference, output = sys.argv[1:]
peers = {"ratios": [{"ratio": json.loads(ratio)}], "scores": [{"largest_difference": json.loads(difference)}]}
(pathlib.Path(output.removeprefix("--output=")) / "report.json").write_text(json.dumps({"peers": peers}))
print("a table")
sys.exit(int(status))
"""
DIFFER = (
    "the scores of the server and of its graphs differ by 0.5, at most 0.001 is allowed; "
    "run: hytrec-export verify REPOSITORY"
)


def run(folder: Path, *, status: int, ratio: str = "0.75", difference: str = "1e-6") -> float:
    return over_in_process([sys.executable, "-c", PROGRAM, f"{status}", ratio, difference], folder)


@pytest.mark.parametrize("status", [0, 3])
def test_the_ratio_is_that_of_the_report(tmp_path: Path, status: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, status=status) == 0.75
    assert capfd.readouterr() == ("", "a table\n")


@pytest.mark.parametrize(
    ("status", "ratio", "difference", "message"),
    [
        (1, "0.75", "0", "hytrec-export loadtest ended with 1; what it said stands above"),
        (3, "0.75", "null", "a window of hytrec-export loadtest failed; what it said stands above"),
        (3, "null", "0", "a window of hytrec-export loadtest failed; what it said stands above"),
        (3, "0.75", "0.5", DIFFER),
    ],
)
def test_without_a_figure_it_says_why(tmp_path: Path, status: int, ratio: str, difference: str, message: str) -> None:
    with pytest.raises(LoadTestError, match=f"^{re.escape(message)}$"):
        run(tmp_path, status=status, ratio=ratio, difference=difference)


def test_without_perf_analyzer_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Path | None) -> Path:
        raise LoadTestError("perf_analyzer is not installed")

    monkeypatch.setattr(load, "find_perf_analyzer", missing)
    with pytest.raises(LoadTestError, match="not installed"):
        load.measure(Context(folder=tmp_path / "runs", data=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_the_graphs_without_a_server_get_its_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MALLOC:
        monkeypatch.delenv(name, raising=False)
    assert environment() == os.environ | MALLOC
