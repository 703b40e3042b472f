"""Load tests of a real server: with perf_analyzer where it is installed, and with a stand-in that fails."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.data.logs.options import LogOptions
from hytrec.errors import DataError
from hytrec.signature import FUSED_ENSEMBLES
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.options import LoadTestOptions, Scenario
from hytrec_export.loadtest.perf_analyzer import find_perf_analyzer
from hytrec_export.loadtest.run import run_and_report

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group(name="load tests")]
USERS = 30
EVENTS = 40
FIRST_KEY = 1000


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of the served model's items, years old."""
    random = np.random.default_rng(5)
    lines = ["user_id,item_id,timestamp,behavior"]
    for user in range(USERS):
        times = 900_000_000 + np.cumsum(random.integers(0, 200, EVENTS))
        keys = FIRST_KEY + random.integers(0, 300, EVENTS)
        lines += [f"{user},{key},{moment},view" for key, moment in zip(keys, times, strict=True)]
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def options(served: Any, events: Path, tmp_path: Path) -> LoadTestOptions:
    return LoadTestOptions(
        endpoint=served.server.grpc_url,
        repository=None,
        events=events,
        concurrency=(2,),
        requests=20,
        windows=1,
        candidates=50,
        output=tmp_path / "report",
    )


def stand_in(folder: Path, code: str) -> Path:
    path = folder / "perf_analyzer"
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return find_perf_analyzer(None)
    except LoadTestError as error:
        pytest.skip(str(error))


def run(options: LoadTestOptions, **changed: Any) -> dict[str, Any]:
    return run_and_report(replace(options, **changed), command="hytrec-export loadtest")


def known_users(served: Any) -> set[bytes]:
    return {summary.user_id for summary in served.store.users()}


@pytest.mark.parametrize("scenario", list(Scenario))
def test_every_scenario_leaves_a_report(
    options: LoadTestOptions, program: Path, served: Any, built: Any, scenario: Scenario
) -> None:
    users = known_users(served)
    report = run(
        options,
        scenario=scenario,
        perf_analyzer=program,
        concurrency=(4,),
        # Three perf_analyzers do not start at the same moment.
        requests=4_000 if scenario is Scenario.MIXED else options.requests,
        repository=built.repository,
        max_spread=9.0,
    )
    (point,) = report["points"]
    assert report["problems"] == []
    assert set(point["endpoints"]) == {endpoint.name for endpoint in scenario.endpoints()}
    assert point["errors"] == point["replayed"] == point["states_lost"] == 0
    assert point["latency_ms"]["p50"] <= point["latency_ms"]["p99"]
    fused = [
        step.model.name
        for endpoint in FUSED_ENSEMBLES
        if endpoint.name in point["endpoints"]
        for step in endpoint.steps
    ]
    assert all(point["models"][name]["compute_ms"] > 0 for name in fused)
    assert point["resources"]["memory_mib_max"] > 10
    longest = EVENTS if scenario is Scenario.COLD else EVENTS // 2
    assert max(row["events_to"] for row in point["by_history"]) >= longest
    assert report["test"]["known_items"] == 1
    assert json.loads((options.output / "report.json").read_text()) == report
    assert (options.output / "report.html").exists()
    assert known_users(served) == users  # nobody of the test is left


def test_a_rate_over_what_the_server_can_is_saturated(options: LoadTestOptions, program: Path) -> None:
    report = run(options, perf_analyzer=program, scenario=Scenario.RECOMMEND, concurrency=(), request_rate=(1000.0,))
    (point,) = report["points"]
    assert point["status"] == "saturated"
    assert point["latency_ms"]["p99"] is None
    assert "saturated" in report["problems"][0]


def test_a_second_test_is_compared_with_the_first(options: LoadTestOptions, program: Path) -> None:
    run(options, perf_analyzer=program)
    report = run(options, perf_analyzer=program, compare=options.output, keep_inputs=True, noise=1e3)
    assert report["comparison"]["regressions"] == []
    assert all(row["ratio"] > 0 for row in report["comparison"]["rows"])
    (kept,) = (options.output / "inputs").iterdir()
    assert f"--input-data={kept}" in (options.output / "commands.txt").read_text()


def test_a_request_that_the_server_rejects_is_in_the_report(
    options: LoadTestOptions, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hytrec_export.loadtest import prefill  # noqa: PLC0415

    monkeypatch.setattr(prefill, "filled", lambda keys, _more, _count: np.repeat(keys, 1_000))
    report = run(options, perf_analyzer=program, scenario=Scenario.RANK)
    assert report["points"][0]["status"] == "failed"
    assert "perf_analyzer said: in ensemble 'hytrec_rank', candidate_keys holds 50000 keys" in report["problems"][0]


def test_a_perf_analyzer_that_fails_is_in_the_report(options: LoadTestOptions, tmp_path: Path) -> None:
    program = stand_in(tmp_path, "echo 'error: something is wrong' >&2; exit 99")
    report = run(options, perf_analyzer=program)
    assert report["points"][0]["status"] == "failed"
    assert report["points"][0]["errors"] == 1
    (problem,) = report["problems"]
    assert problem.startswith("append at concurrency 2 is failed: a run failed: ")
    assert problem.endswith("perf_analyzer said: error: something is wrong (exit status 99)")


def test_a_perf_analyzer_that_hangs_is_in_the_report(options: LoadTestOptions, tmp_path: Path) -> None:
    begun = time.monotonic()
    report = run(options, perf_analyzer=stand_in(tmp_path, "sleep 600"), timeout_s=0.5)
    assert "perf_analyzer did not end in time and was killed" in report["problems"][0]
    assert time.monotonic() - begun < 300


def test_a_perf_analyzer_of_another_version_is_in_the_report(options: LoadTestOptions, tmp_path: Path) -> None:
    report = run(options, perf_analyzer=stand_in(tmp_path, "exit 0"))
    assert "perf_analyzer's profile export cannot be read" in report["problems"][0]


def test_a_log_of_other_items_is_refused(options: LoadTestOptions, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"1,{key},{key}\n" for key in range(1, 60)))
    with pytest.raises(LoadTestError, match="the server's model knows none of the event log's items"):
        run(options, events=path, perf_analyzer=stand_in(tmp_path, "exit 0"))
    assert not options.output.exists()


def test_a_log_of_mostly_other_items_is_told(options: LoadTestOptions, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    keys = [*range(1, 40), *range(FIRST_KEY, FIRST_KEY + 10)]
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"1,{key},{key}\n" for key in keys))
    report = run(options, events=path, perf_analyzer=stand_in(tmp_path, "exit 9"))
    assert "the server's model knows only 20% of the event log's most frequent items" in report["problems"]


def test_a_log_without_the_column_is_refused(options: LoadTestOptions, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'product'; it has user_id, item_id"):
        run(options, log=LogOptions(item_column="product"), perf_analyzer=stand_in(tmp_path, "exit 0"))


def test_a_repository_of_another_model_is_refused(options: LoadTestOptions, built: Any, tmp_path: Path) -> None:
    settings = built.settings
    (tmp_path / "other").mkdir()
    replace(settings, fingerprint="0" * 32).save(tmp_path / "other")
    with pytest.raises(
        LoadTestError, match=f"the server has model {settings.fingerprint}, .*other holds {'0' * 32}; giv"
    ):
        run(options, repository=tmp_path / "other", perf_analyzer=stand_in(tmp_path, "exit 0"))


def test_no_server_is_told_before_anything_is_read(
    options: LoadTestOptions, tmp_path: Path, unused_tcp_port: int
) -> None:
    with pytest.raises(LoadTestError, match=r"no server answers at 127.0.0.1:"):
        run(
            options,
            endpoint=f"127.0.0.1:{unused_tcp_port}",
            events=tmp_path / "none.csv",
            perf_analyzer=stand_in(tmp_path, "exit 0"),
        )
