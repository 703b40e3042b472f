from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hytrec.data.logs.options import LogOptions
from hytrec_export.cli.loadtest import loadtest
from hytrec_export.loadtest import run
from hytrec_export.loadtest.options import NOT_CLEAN, WORSE, LoadTestOptions, Scenario

MakeReport = Callable[..., dict[str, Any]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any], list[str]], tuple[LoadTestOptions, int, str]]:
    """Types a command whose test finds a given report; the options made of it, the exit code and what was printed."""

    def invoke(report: dict[str, Any], arguments: list[str]) -> tuple[LoadTestOptions, int, str]:
        seen: list[LoadTestOptions] = []

        def found(options: LoadTestOptions, **_: object) -> dict[str, Any]:
            seen.append(options)
            return report

        monkeypatch.setattr(run, "run_and_report", found)
        app = typer.Typer()
        app.command()(loadtest)
        result = CliRunner().invoke(app, arguments)
        assert seen, result.output
        return seen[0], result.exit_code, result.output

    return invoke


def test_a_clean_test_prints_a_table(typed: Any, make_report: MakeReport) -> None:
    options, code, text = typed(make_report(), [])
    assert options == LoadTestOptions()
    assert code == 0
    assert text.splitlines()[0].split()[:3] == ["load", "status", "requests/s"]
    assert "report  reports/loadtest/report.html" in text


def test_json_is_the_report(typed: Any, make_report: MakeReport) -> None:
    report = make_report()
    _, _, text = typed(report, ["--json"])
    assert json.loads(text) == json.loads(json.dumps(report))


def test_every_option_arrives(typed: Any, make_report: MakeReport, tmp_path: Path) -> None:
    arguments = "--scenario rank --concurrency 1,3 --requests 50 --windows 2 --users 9 --candidates 7 --noise 0.2"
    arguments += " --endpoint host:9 --item-column thing --timeout 5 --max-spread 0.5 --keep-inputs --seed 4"
    paths = [f"--{name}={tmp_path / name}" for name in ("events", "output", "compare", "repository", "perf-analyzer")]
    options, _, _ = typed(make_report(), [*arguments.split(), *paths])
    assert options == LoadTestOptions(
        endpoint="host:9",
        repository=tmp_path / "repository",
        events=tmp_path / "events",
        log=LogOptions(item_column="thing"),
        scenario=Scenario.RANK,
        concurrency=(1, 3),
        requests=50,
        windows=2,
        users=9,
        candidates=7,
        output=tmp_path / "output",
        compare=tmp_path / "compare",
        noise=0.2,
        max_spread=0.5,
        timeout_s=5.0,
        perf_analyzer=tmp_path / "perf-analyzer",
        keep_inputs=True,
        seed=4,
    )
    assert typed(make_report(), ["--request-rate", "2.5"])[0].request_rate == (2.5,)


def test_problems_and_regressions_are_exit_codes(typed: Any, make_report: MakeReport) -> None:
    report = make_report()
    report["problems"] = ["append at concurrency 1 is failed: no"]
    _, code, text = typed(report, [])
    assert code == NOT_CLEAN == 3
    assert "not clean: append at concurrency 1 is failed: no" in text
    report["comparison"] = {"old": "old", "rows": [], "notes": [], "regressions": ["p99 is worse"]}
    _, code, text = typed(report, [])
    assert code == WORSE == 4
    assert "worse: p99 is worse" in text


def test_the_command_is_light_to_import() -> None:
    heavy = "{'numpy', 'tritonclient', 'duckdb', 'jinja2', 'torch'}"
    code = f"import sys, hytrec_export.cli; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
