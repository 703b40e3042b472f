from __future__ import annotations

from collections.abc import Callable

import pytest

from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.options import LoadTestOptions, Scenario
from hytrec_export.loadtest.plan import Plan
from hytrec_export.settings import Limits


def plan(log: EventLog, **options: object) -> Plan:
    return Plan(LoadTestOptions(**options), log, prefix="t", limits=Limits())  # type: ignore[arg-type]


def test_windows_of_a_load_are_apart(log: EventLog) -> None:
    loads = [load.value for load, _ in plan(log, concurrency=(1, 2), requests=20, windows=3).windows]
    assert loads == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize("scenario", [Scenario.APPEND, Scenario.COLD, Scenario.MIXED])
def test_the_input_is_longer_than_the_run(log: EventLog, scenario: Scenario) -> None:
    for _, jobs in plan(log, scenario=scenario, concurrency=(3, 7), requests=50, windows=2).windows:
        for job in jobs:
            assert job.sent == job.counted + job.warmup
            assert len(job.entries) >= job.sent + job.load.threads


def test_a_user_stays_in_one_job_and_one_thread_of_a_mixed_window(log: EventLog) -> None:
    for _, jobs in plan(log, scenario=Scenario.MIXED, concurrency=(10,), requests=100, windows=3).windows:
        assert [(job.endpoint.name, job.load.threads) for job in jobs] == [
            ("hytrec_append", 6),
            ("hytrec_rank", 3),
            ("hytrec_recommend", 1),
        ]
        threads: dict[str, tuple[str, int]] = {}
        for job in jobs:
            for place, request in enumerate(job.entries):
                thread = (job.endpoint.name, place % job.load.threads)
                assert threads.setdefault(request.user.name, thread) == thread


def test_requests_that_no_job_takes_come_later(make_log: Callable[..., EventLog]) -> None:
    planned = plan(make_log([80] * 40), scenario=Scenario.MIXED, concurrency=(4,), requests=60, windows=4)
    ends: dict[str, int] = {}
    for _, jobs in planned.windows:
        for job in jobs:
            for request in job.entries:
                assert request.first == ends.get(request.user.name, request.user.begin)
                ends[request.user.name] = request.stop
    assert set(ends) == {user.name for user in planned.users}


def test_a_rate_gets_a_second_of_requests(log: EventLog) -> None:
    ((_, (job,)),) = plan(log, request_rate=(120.0,), requests=10, windows=1).windows
    assert job.counted == 120
