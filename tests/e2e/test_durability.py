"""Nothing is lost and nothing counts twice; `make measure` does the same at length."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec_benchmarks.faults.faulty_proxy import FaultyProxy
from hytrec_benchmarks.faults.killing import kill_and_compare
from hytrec_benchmarks.faults.lost_snapshots import lose_snapshots
from hytrec_benchmarks.faults.racing import Acknowledged, overlaps, race
from hytrec_benchmarks.faults.redelivering import append_beside_late_duplicates
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_clients import Events, HytrecClient, Unresolved
from hytrec_export.server import EmbeddedServer

pytestmark = pytest.mark.e2e


def nothing_lost(figures: dict[str, Figure]) -> bool:
    """Whether every acknowledged event is in its place, once; one that was never seen is an error of the function."""
    faults = ("acknowledged_events_lost", "acknowledged_events_misplaced", "events_applied_twice")
    return not any(figures[name] for name in faults) and figures["killed_state_max_rel_diff"] <= 1e-4


@pytest.mark.timeout(300)
def test_kill_9_loses_nothing_and_applies_nothing_twice(built: Any, tmp_path: Path) -> None:
    figures = kill_and_compare(built.repository, tmp_path, kills=5)
    assert nothing_lost(figures)
    assert 1 <= figures["kills_during_calls"] <= figures["kills"] == 5
    assert figures["kills_calls"] > figures["kills"]


@pytest.mark.timeout(300)
def test_a_stop_in_mid_traffic_loses_nothing_either(built: Any, tmp_path: Path) -> None:
    assert nothing_lost(kill_and_compare(built.repository, tmp_path, kills=2, end=EmbeddedServer.stop))


@pytest.mark.timeout(300)
def test_two_clients_and_lost_responses_leave_every_event_once(served: Any) -> None:
    figures = race(served.url, requests=40)
    assert figures["concurrent_event_count_error"] == 0
    assert figures["concurrent_events"] >= 80
    assert figures["concurrent_answers_lost"] > 0


@pytest.mark.timeout(300)
def test_requests_that_come_again_late_count_once(served: Any) -> None:
    generator = np.random.default_rng(0)
    figures = append_beside_late_duplicates(
        served.url,
        requests=10,
        users=2,
        writers=4,
        latest_s=1.0,
        disturb=lambda: lose_snapshots(served.stored.url.folder, generator),
    )
    assert figures["late_duplicate_events_sent"] == 80
    assert figures["late_duplicates"] > 40
    assert figures["late_duplicates_applied"] == 0


@pytest.mark.timeout(300)
def test_a_lost_response_is_remembered_however_many_requests_come_between(served: Any) -> None:
    click = Events.one(1000, 10)
    with (
        FaultyProxy(served.url, max_silence_s=60) as proxy,
        HytrecClient(proxy.url) as unlucky,
        served.client() as busy,
    ):
        unlucky.append("shared", click)
        proxy.loss = 1
        request_id = os.urandom(16)
        while not proxy.lost:  # the request was processed once a response is lost
            with pytest.raises(Unresolved):
                unlucky.append("shared", click, request_id=request_id, timeout_s=0.3)
        for count in range(3, 103):
            assert busy.append("shared", click).event_count == count
        again = busy.append("shared", click, request_id=request_id)
    assert (again.event_count, again.applied) == (102, False)


def test_an_index_claimed_twice_is_noticed() -> None:
    receipts = [Acknowledged(2, 2, applied=True), Acknowledged(3, 5, applied=True), Acknowledged(9, 5, applied=False)]
    assert overlaps(receipts) == 0
    assert overlaps([*receipts, Acknowledged(2, 4, applied=True)]) == 2
