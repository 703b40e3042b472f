from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hytrec_benchmarks.peers.history_traffic import HistoryTraffic
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.traffic import SPACING

MakeLog = Callable[..., EventLog]


@given(length=st.integers(1, 60), threads=st.integers(1, 5), sent=st.integers(1, 300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_users_have_exactly_so_many_events_and_then_come_with_one_at_a_time(
    make_log: MakeLog, length: int, threads: int, sent: int
) -> None:
    traffic = HistoryTraffic(make_log([3, 70, 66, 62, 70]), length=length, threads=threads, prefix="t")
    last: dict[str, int] = {}
    events: Counter[str] = Counter()
    for place, request in enumerate(traffic.requests(0, sent)):
        name = request.user.name
        assert request.user.begin - request.user.start == length
        assert len(request) == 1
        assert request.events_before == length + events[name]
        assert place - last.get(name, -SPACING * threads) >= SPACING * threads
        assert place % threads == last.get(name, place) % threads
        last[name] = place
        events[name] += 1
    assert max(events.values()) <= max(1, length // 10 + 1)
    assert {user.name for user in traffic.users} == set(events)


def test_the_sequence_is_the_same_however_it_is_taken(make_log: MakeLog) -> None:
    whole, parts = (HistoryTraffic(make_log([50, 60]), length=20, threads=2, prefix="t") for _ in range(2))

    def told(sent: list[object]) -> list[tuple[str, int]]:
        return [(request.user.name, request.first) for request in sent]  # type: ignore[attr-defined]

    taken = [*parts.requests(0, 7), *parts.requests(7, 40)]
    assert told([*whole.requests(0, 40)]) == told([*taken])
    assert told([*parts.requests(5, 9)]) == told([*taken[5:9]])  # and as often as somebody wants it


def test_users_are_the_beginnings_of_long_histories_in_turn(make_log: MakeLog) -> None:
    log = make_log([5, 40, 22, 21, 90])
    traffic = HistoryTraffic(log, length=20, threads=1, prefix="t")
    traffic.requests(0, 100)
    assert [user.log_user for user in traffic.users[:7]] == [1, 2, 4, 1, 2, 4, 1]  # 21 has one event left, not two
    assert len({user.name for user in traffic.users}) == len(traffic.users)
    assert all(user.start == log.offsets[user.log_user] for user in traffic.users)


def test_the_longest_history_gives_what_it_has(make_log: MakeLog) -> None:
    traffic = HistoryTraffic(make_log([50, 101]), length=100, threads=1, prefix="t")
    assert traffic.requests_each == 1
    assert {request.first - request.user.start for request in traffic.requests(0, 20)} == {100}


def test_a_log_without_histories_that_long_is_refused(make_log: MakeLog) -> None:
    with pytest.raises(
        LoadTestError,
        match="the longest history of the event log has 64 events, so none has 64 and then a new one; give "
        "--history-lengths up to 63, or a log of longer histories with --events",
    ):
        HistoryTraffic(make_log([5, 64]), length=64, threads=1, prefix="t")
