from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.traffic import CALL_GAP_S, MAX_CALL_EVENTS, SPACING, Call, ColdTraffic, Traffic, cuts

MakeLog = Callable[..., EventLog]


def check_spacing(calls: list[Call], lanes: int) -> None:
    last: dict[str, int] = {}
    for place, call in enumerate(calls):
        name = call.visitor.name
        assert place - last.get(name, -SPACING * lanes) >= SPACING * lanes
        assert place % lanes == last.get(name, place) % lanes
        last[name] = place


def check_events(calls: list[Call]) -> None:
    """Every visitor's events come in order, each once, none left out."""
    ends: dict[str, int] = {}
    for call in calls:
        assert len(call) >= 1
        assert call.first == ends.get(call.visitor.name, call.visitor.begin)
        ends[call.visitor.name] = call.stop


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    lanes=st.integers(1, 9),
    requests=st.integers(1, 300),
    seed=st.integers(0, 100),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_user_comes_twice_within_four_rounds_and_no_event_twice(
    make_log: MakeLog, lengths: list[int], lanes: int, requests: int, seed: int
) -> None:
    traffic = Traffic(make_log(lengths), prefix="t", seed=seed)
    calls = traffic.take(requests, lanes=lanes)
    assert len(calls) == requests
    check_spacing(calls, lanes)
    check_events(calls)


def test_later_windows_go_on_where_earlier_ones_ended(log: EventLog) -> None:
    traffic = Traffic(log, prefix="t", seed=1)
    windows = [traffic.take(120, lanes=lanes) for lanes in (1, 4, 2)]
    check_events([call for window in windows for call in window])
    for window, lanes in zip(windows, (1, 4, 2), strict=True):
        check_spacing(window, lanes)


def test_users_come_as_often_as_in_the_log(make_log: MakeLog) -> None:
    lengths = [40] * 30 + [400] * 10
    traffic = Traffic(make_log(lengths), prefix="t", seed=2)
    seen = Counter(call.visitor.user for call in traffic.take(400, lanes=1))
    often = sum(count for user, count in seen.items() if user >= 30)
    assert often / 400 == pytest.approx(4_000 / 5_200, abs=0.08)


def test_the_first_half_of_a_history_is_there_before(log: EventLog) -> None:
    traffic = Traffic(log, prefix="t", seed=3)
    for visitor, length in zip(traffic.visitors, log.lengths, strict=True):
        assert visitor.begin - visitor.start == length // 2
    call = traffic.take(1, lanes=1)[0]
    assert call.events_before == call.first - call.visitor.start


def test_used_up_users_come_again_under_another_name(make_log: MakeLog) -> None:
    traffic = Traffic(make_log([4, 2]), prefix="t", seed=4)
    calls = traffic.take(50, lanes=2)
    names = defaultdict(set)
    for call in calls:
        names[call.visitor.user].add(call.visitor.name)
    assert set(names) == {0, 1}
    assert len(traffic.visitors) == len({visitor.name for visitor in traffic.visitors}) > 2


@given(st.lists(st.integers(0, 2 * CALL_GAP_S), max_size=50), st.integers(0, 9))
def test_calls_end_at_pauses_and_stay_small(gaps: list[int], seed: int) -> None:
    times = np.cumsum([10**9, *gaps])
    ends = cuts(times, np.random.default_rng(seed)).tolist()
    assert ends[-1] == len(times)
    begun = 0
    for end in ends:
        assert 1 <= end - begun <= MAX_CALL_EVENTS
        assert all(gap <= CALL_GAP_S for gap in np.diff(times[begun:end]))
        begun = end


def test_cold_users_bring_the_last_events_of_long_histories(make_log: MakeLog) -> None:
    log = make_log([3, 150, 160, 400, 420, 5_000])
    traffic = ColdTraffic(log, prefix="c", seed=0, max_events=1_000)
    calls = traffic.take(30, lanes=4)
    lengths = Counter(len(call) for call in calls)
    assert set(lengths) == {150, 160, 400, 420, 1_000}
    assert lengths[1_000] == 10  # a third: each octave as often
    assert len({call.visitor.name for call in calls}) == 30
    assert all(call.events_before == 0 for call in calls)
    for call in calls:
        assert call.stop == log.offsets[call.visitor.user + 1]


def test_cold_windows_hold_the_same_histories(make_log: MakeLog) -> None:
    traffic = ColdTraffic(make_log([150] * 5 + [300] * 5), prefix="c", seed=0, max_events=1_000)
    one, other = (traffic.take(20, lanes=1) for _ in range(2))
    assert [call.visitor.user for call in one] == [call.visitor.user for call in other]
    assert not {call.visitor.name for call in one} & {call.visitor.name for call in other}


def test_a_log_of_short_histories_gives_its_longest(make_log: MakeLog) -> None:
    traffic = ColdTraffic(make_log([3, 8, 8]), prefix="c", seed=0, max_events=1_000)
    assert {len(call) for call in traffic.take(5, lanes=1)} == {8}
