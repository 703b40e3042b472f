from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hytrec_export.loadtest.history_traffic import HistoryTraffic

from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.traffic import SPACING

MakeLog = Callable[..., EventLog]


@given(length=st.integers(1, 60), lanes=st.integers(1, 5), calls=st.integers(1, 300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_visitors_have_exactly_so_many_events_and_then_come_with_one_at_a_time(
    make_log: MakeLog, length: int, lanes: int, calls: int
) -> None:
    traffic = HistoryTraffic(make_log([3, 70, 66, 62, 70]), length=length, lanes=lanes, prefix="t")
    last: dict[str, int] = {}
    events: Counter[str] = Counter()
    for place, call in enumerate(traffic.calls(0, calls)):
        name = call.visitor.name
        assert call.visitor.begin - call.visitor.start == length
        assert len(call) == 1
        assert call.events_before == length + events[name]
        assert place - last.get(name, -SPACING * lanes) >= SPACING * lanes
        assert place % lanes == last.get(name, place) % lanes
        last[name] = place
        events[name] += 1
    assert max(events.values()) <= max(1, length // 10 + 1)
    assert {visitor.name for visitor in traffic.visitors} == set(events)


def test_the_sequence_is_the_same_however_it_is_taken(make_log: MakeLog) -> None:
    whole, parts = (HistoryTraffic(make_log([50, 60]), length=20, lanes=2, prefix="t") for _ in range(2))

    def told(calls: list[object]) -> list[tuple[str, int]]:
        return [(call.visitor.name, call.first) for call in calls]  # type: ignore[attr-defined]

    taken = [*parts.calls(0, 7), *parts.calls(7, 40)]
    assert told([*whole.calls(0, 40)]) == told([*taken])
    assert told([*parts.calls(5, 9)]) == told([*taken[5:9]])  # and as often as somebody wants it


def test_visitors_are_the_beginnings_of_long_histories_in_turn(make_log: MakeLog) -> None:
    log = make_log([5, 40, 22, 21, 90])
    traffic = HistoryTraffic(log, length=20, lanes=1, prefix="t")
    traffic.calls(0, 100)
    assert [visitor.user for visitor in traffic.visitors[:7]] == [1, 2, 4, 1, 2, 4, 1]  # 21 has one event left, not two
    assert len({visitor.name for visitor in traffic.visitors}) == len(traffic.visitors)
    assert all(visitor.start == log.offsets[visitor.user] for visitor in traffic.visitors)


def test_the_longest_history_gives_what_it_has(make_log: MakeLog) -> None:
    traffic = HistoryTraffic(make_log([50, 101]), length=100, lanes=1, prefix="t")
    assert traffic.calls_each == 1
    assert {call.first - call.visitor.start for call in traffic.calls(0, 20)} == {100}


def test_a_log_without_histories_that_long_is_refused(make_log: MakeLog) -> None:
    with pytest.raises(
        LoadTestError,
        match="the longest history of the event log has 64 events, so none has 64 and then a new one; give "
        "--history-lengths up to 63, or a log of longer histories with --events",
    ):
        HistoryTraffic(make_log([5, 64]), length=64, lanes=1, prefix="t")
