from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.traffic import (
    MAX_REQUEST_EVENTS,
    REQUEST_GAP_S,
    SPACING,
    ColdTraffic,
    Traffic,
    UserRequest,
    request_ends,
)

MakeLog = Callable[..., EventLog]


def check_spacing(sent: list[UserRequest], threads: int) -> None:
    last: dict[str, int] = {}
    for place, request in enumerate(sent):
        name = request.user.name
        assert place - last.get(name, -SPACING * threads) >= SPACING * threads
        assert place % threads == last.get(name, place) % threads
        last[name] = place


def check_events(sent: list[UserRequest]) -> None:
    """Every user's events come in order, each once, none left out."""
    ends: dict[str, int] = {}
    for request in sent:
        assert len(request) >= 1
        assert request.first == ends.get(request.user.name, request.user.begin)
        ends[request.user.name] = request.stop


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    threads=st.integers(1, 9),
    requests=st.integers(1, 300),
    seed=st.integers(0, 100),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_user_comes_twice_within_four_rounds_and_no_event_twice(
    make_log: MakeLog, lengths: list[int], threads: int, requests: int, seed: int
) -> None:
    traffic = Traffic(make_log(lengths), prefix="t", seed=seed)
    sent = traffic.take(requests, threads=threads)
    assert len(sent) == requests
    check_spacing(sent, threads)
    check_events(sent)


def test_later_windows_go_on_where_earlier_ones_ended(log: EventLog) -> None:
    traffic = Traffic(log, prefix="t", seed=1)
    windows = [traffic.take(120, threads=threads) for threads in (1, 4, 2)]
    check_events([request for window in windows for request in window])
    for window, threads in zip(windows, (1, 4, 2), strict=True):
        check_spacing(window, threads)


def test_users_come_as_often_as_in_the_log(make_log: MakeLog) -> None:
    lengths = [40] * 30 + [400] * 10
    traffic = Traffic(make_log(lengths), prefix="t", seed=2)
    seen = Counter(request.user.log_user for request in traffic.take(400, threads=1))
    often = sum(count for user, count in seen.items() if user >= 30)
    assert often / 400 == pytest.approx(4_000 / 5_200, abs=0.08)


def test_the_first_half_of_a_history_is_there_before(log: EventLog) -> None:
    traffic = Traffic(log, prefix="t", seed=3)
    for user, length in zip(traffic.users, log.lengths, strict=True):
        assert user.begin - user.start == length // 2
    request = traffic.take(1, threads=1)[0]
    assert request.events_before == request.first - request.user.start


def test_used_up_users_come_again_under_another_name(make_log: MakeLog) -> None:
    traffic = Traffic(make_log([4, 2]), prefix="t", seed=4)
    sent = traffic.take(50, threads=2)
    names = defaultdict(set)
    for request in sent:
        names[request.user.log_user].add(request.user.name)
    assert set(names) == {0, 1}
    assert len(traffic.users) == len({user.name for user in traffic.users}) > 2


@given(st.lists(st.integers(0, 2 * REQUEST_GAP_S), max_size=50), st.integers(0, 9))
def test_requests_end_at_pauses_and_stay_small(gaps: list[int], seed: int) -> None:
    times = np.cumsum([10**9, *gaps])
    ends = request_ends(times, np.random.default_rng(seed)).tolist()
    assert ends[-1] == len(times)
    begun = 0
    for end in ends:
        assert 1 <= end - begun <= MAX_REQUEST_EVENTS
        assert all(gap <= REQUEST_GAP_S for gap in np.diff(times[begun:end]))
        begun = end


def test_cold_users_bring_the_last_events_of_long_histories(make_log: MakeLog) -> None:
    log = make_log([3, 150, 160, 400, 420, 5_000])
    traffic = ColdTraffic(log, prefix="c", seed=0, max_events=1_000)
    sent = traffic.take(30, threads=4)
    lengths = Counter(len(request) for request in sent)
    assert set(lengths) == {150, 160, 400, 420, 1_000}
    assert lengths[1_000] == 10  # a third: each octave as often
    assert len({request.user.name for request in sent}) == 30
    assert all(request.events_before == 0 for request in sent)
    for request in sent:
        assert request.stop == log.offsets[request.user.log_user + 1]


def test_cold_windows_hold_the_same_histories(make_log: MakeLog) -> None:
    traffic = ColdTraffic(make_log([150] * 5 + [300] * 5), prefix="c", seed=0, max_events=1_000)
    one, other = (traffic.take(20, threads=1) for _ in range(2))
    assert [request.user.log_user for request in one] == [request.user.log_user for request in other]
    assert not {request.user.name for request in one} & {request.user.name for request in other}


def test_a_log_of_short_histories_gives_its_longest(make_log: MakeLog) -> None:
    traffic = ColdTraffic(make_log([3, 8, 8]), prefix="c", seed=0, max_events=1_000)
    assert {len(request) for request in traffic.take(5, threads=1)} == {8}
