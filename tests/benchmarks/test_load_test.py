"""The load test as a measure runs it; the program is made up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hytrec_export.errors import ServerError
from measures.load_test import over_in_process

PROGRAM = """
import json, pathlib, sys
status, ratio, output = sys.argv[1:]
folder = pathlib.Path(output.removeprefix("--output="))
if ratio:
    (folder / "report.json").write_text(json.dumps({"peers": {"ratios": [{"history": 9, "ratio": json.loads(ratio)}]}}))
print("a table")
sys.exit(int(status))
"""


def run(folder: Path, *, status: int, ratio: str) -> float:
    return over_in_process([sys.executable, "-c", PROGRAM, f"{status}", ratio], folder)


@pytest.mark.parametrize("status", [0, 3])
def test_the_ratio_is_that_of_the_report(tmp_path: Path, status: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, status=status, ratio="0.75") == 0.75
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("status", "ratio"), [(3, "null"), (1, ""), (2, ""), (1, "0.75")])
def test_without_a_ratio_it_says_what_to_do(tmp_path: Path, status: int, ratio: str) -> None:
    with pytest.raises(ServerError) as raised:
        run(tmp_path, status=status, ratio=ratio)
    assert str(raised.value) == (
        f"hytrec-export loadtest ended with {status} and no ratio; see above, install perf_analyzer with: "
        f"make perf-analyzer, or see {tmp_path}"
    )
