"""`python -m hytrec_benchmarks.peers`: the options it makes, its exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hytrec.data.logs.options import LogOptions
from hytrec_benchmarks.peers import __main__ as program
from hytrec_benchmarks.peers.comparison import run_comparison
from hytrec_benchmarks.peers.options import ComparisonOptions, Peer
from hytrec_export.loadtest.options import Scenario


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, make_peers_report: Callable[..., dict[str, Any]]
) -> Callable[..., tuple[ComparisonOptions, int, str]]:
    """Types a command whose comparison finds a report of given rates: its options, exit code and output."""

    def invoke(*arguments: str, **rates: float | None) -> tuple[ComparisonOptions, int, str]:
        seen: list[ComparisonOptions] = []

        def found(options: ComparisonOptions, *, test: object, **_: object) -> dict[str, Any]:
            assert test is run_comparison
            seen.append(options)
            return make_peers_report(**rates)

        monkeypatch.setattr(program, "run_and_report", found)
        result = CliRunner().invoke(program.app, arguments)
        assert seen, result.output
        return seen[0], result.exit_code, result.output

    return invoke


def test_the_defaults_are_those_of_the_options(typed: Any) -> None:
    options, code, text = typed()
    assert options == ComparisonOptions()
    assert code == 0
    assert "report  reports/peers/report.html" in text


def test_every_option_arrives(typed: Any, tmp_path: Path) -> None:
    arguments = "--history-lengths 100,1000 --peer eager=host:1 --peer softmax=host:2 --window-seconds 1.5"
    arguments += " --scenario append --concurrency 3 --windows 2 --candidates 7 --noise 0.2 --max-spread 0.5"
    arguments += " --endpoint host:9 --item-column thing --timeout 5 --keep-inputs --seed 4"
    names = ("events", "output", "compare", "repository", "perf-analyzer", "in-process")
    options, _, _ = typed(*arguments.split(), *(f"--{name}={tmp_path / name}" for name in names))
    assert options == ComparisonOptions(
        endpoint="host:9",
        repository=tmp_path / "repository",
        events=tmp_path / "events",
        log=LogOptions(item_column="thing"),
        scenario=Scenario.APPEND,
        concurrency=(3,),
        history_lengths=(100, 1000),
        peers=(Peer(name="eager", endpoint="host:1"), Peer(name="softmax", endpoint="host:2")),
        in_process=tmp_path / "in-process",
        windows=2,
        window_seconds=1.5,
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


def test_a_failed_competitor_is_an_exit_code(typed: Any) -> None:
    _, code, text = typed(eager=None)
    assert code == 3
    assert "not clean: eager after 10,000 events is failed: a run failed: it is gone" in text
