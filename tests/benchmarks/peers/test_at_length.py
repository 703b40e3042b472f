"""A history length with made-up competitors: what they are sent, how much, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec_benchmarks.peers.at_length import LengthComparison, whole_rounds
from hytrec_benchmarks.peers.history_traffic import HistoryTraffic
from hytrec_benchmarks.peers.options import ComparisonOptions
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.event_log import EventLog, Keys
from hytrec_export.loadtest.figures import Window
from hytrec_export.loadtest.input_data import RequestFactory
from hytrec_export.loadtest.options import Scenario
from hytrec_export.loadtest.plan import Job
from hytrec_export.loadtest.profile import Profile
from hytrec_export.loadtest.traffic import SimulatedUser
from hytrec_export.progress import silent

LENGTH, THREADS = 20, 2
MakeLog = Callable[..., EventLog]


class Fake:
    """Answers at a rate, and fails at a step if told so."""

    model = "m"

    def __init__(self, name: str, order: list[str], *, per_s: float, fails: str = "") -> None:
        self.name = name
        self.jobs: list[Job] = []
        self.known: list[str] = []
        self.asked: list[tuple[str, int]] = []
        self.forgotten: list[str] = []
        self._order = order
        self._per_s = per_s
        self._fails = fails

    def prefill(self, users: Sequence[SimulatedUser]) -> None:
        if self._fails == "prefill":
            raise LoadTestError("no room")
        self.known += [user.name for user in users]

    def scores(self, user: SimulatedUser, candidates: Keys, now_s: int) -> NDArray[np.float32]:
        self.asked.append((user.name, now_s))
        return np.arange(len(candidates), dtype=np.float32)

    def window(self, job: Job) -> Window:
        assert {request.user.name for request in job.entries} <= set(self.known)
        self.jobs.append(job)
        self._order.append(self.name)
        if self._fails == "window" and len(self.jobs) > 2:
            return Window(failure="perf_analyzer said: no (exit status 99)")
        sent = np.arange(job.sent) * int(1e9 / self._per_s)
        own = Profile(sent_ns=sent, answered_ns=sent + 1_000, history=sent * 0 + LENGTH, events=sent * 0 + 1)
        return Window(profiles={job.endpoint.name: own.after(job.warmup)})

    def forget(self, users: Sequence[SimulatedUser]) -> None:
        self.forgotten = [user.name for user in users]


def measured(
    log: EventLog, competitors: Sequence[Fake], **changed: Any
) -> tuple[LengthComparison, list[dict[str, Any]], RequestFactory]:
    options = replace(
        ComparisonOptions(scenario=Scenario.RANK, history_lengths=(LENGTH,), concurrency=(THREADS,), windows=2),
        **changed,
    )
    factory = RequestFactory(log=log)

    def candidates(users: Sequence[SimulatedUser]) -> dict[str, Keys]:
        assert {user.name for user in users} <= set(competitors[0].known)
        return {user.name: log.item_keys[:3] for user in users}

    one = LengthComparison(
        competitors=competitors,
        traffic=HistoryTraffic(log, length=LENGTH, threads=THREADS, prefix="t"),
        factory=factory,
        options=options,
        candidates=candidates,
        query=log.item_keys[:5],
    )
    return one, one.measure(silent, title="x"), factory


@pytest.fixture
def order() -> list[str]:
    return []


@pytest.fixture
def long_log(make_log: MakeLog) -> EventLog:
    return make_log([30] * 6)


def requests_of_fake(fake: Fake) -> list[tuple[str, int]]:
    return [(request.user.name, request.first) for job in fake.jobs for request in job.entries[: job.sent]]


def test_everybody_gets_the_same_calls_as_far_as_it_gets(long_log: EventLog, order: list[str]) -> None:
    fast, slow = Fake("hytrec", order, per_s=200), Fake("slow", order, per_s=0.5)
    _, _, factory = measured(long_log, [fast, slow])
    many, few = requests_of_fake(fast), requests_of_fake(slow)
    assert len(many) > 10 * len(few)
    assert many[: len(few)] == few
    assert len(set(many)) == len(many)  # no event twice
    for name in {name for name, _ in many}:
        firsts = [first for own, first in many if own == name]
        assert all(later - earlier == 1 for earlier, later in pairwise(firsts))
    assert {name for name, _ in many} <= set(factory.candidates)


def test_a_window_is_as_many_requests_as_fill_it(long_log: EventLog, order: list[str]) -> None:
    fast, slow = Fake("hytrec", order, per_s=200), Fake("slow", order, per_s=0.5)
    _, points, _ = measured(long_log, [fast, slow], window_seconds=2.0)
    assert [(point["competitor"], point["status"], point["windows_wanted"]) for point in points] == [
        ("hytrec", "ok", 2),
        ("slow", "ok", 2),
    ]
    # A trial of a round, another of a quarter of a window, then the windows.
    assert [job.counted for job in fast.jobs] == [THREADS, 100, 400, 400]
    assert [job.counted for job in slow.jobs] == [THREADS] * 3
    for job in (*fast.jobs, *slow.jobs):
        assert job.warmup >= max(THREADS, 0.1 * job.counted)
        assert job.sent % THREADS == 0
        assert len(job.entries) > job.sent
    assert points[0]["throughput_per_s"] == pytest.approx(200, rel=0.02)
    assert points[0]["requests"] == 800
    assert points[0]["requests_per_window"] == 400


@pytest.mark.parametrize(
    ("rate", "seconds", "requests"), [(100.0, 3.0, 304), (0.1, 3.0, 8), (1e-9, 3.0, 8), (5.4, 3.0, 24)]
)
def test_the_number_of_requests_is_whole_rounds(rate: float, seconds: float, requests: int) -> None:
    assert whole_rounds(rate * seconds, 8) == requests


def test_windows_take_turns_in_an_order_drawn_anew(long_log: EventLog, order: list[str]) -> None:
    names = ("hytrec", "b", "c", "d")
    measured(long_log, [Fake(name, order, per_s=0.5) for name in names], windows=6)
    rounds = [order[at : at + 4] for at in range(0, len(order), 4)]
    assert len(rounds) == 1 + 6  # the trials, then the rounds
    assert all(sorted(one) == sorted(names) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 2
    again: list[str] = []
    measured(long_log, [Fake(name, again, per_s=0.5) for name in names], windows=6)
    assert again == order


@pytest.mark.parametrize(
    ("step", "note", "windows"),
    [("prefill", "a run failed: no room", 1), ("window", "a run failed: perf_analyzer said: no (exit status 99)", 1)],
)
def test_a_peer_that_fails_is_out_and_the_others_go_on(
    long_log: EventLog, order: list[str], step: str, note: str, windows: int
) -> None:
    ours, peer = Fake("hytrec", order, per_s=50), Fake("peer", order, per_s=50, fails=step)
    one, points, _ = measured(long_log, [ours, peer], windows=3)
    assert [point["status"] for point in points] == ["ok", "failed"]
    assert points[0]["requests"] == 3 * points[0]["requests_per_window"]
    assert points[1]["notes"] == [note]
    assert points[1]["windows_wanted"] == windows
    assert "hytrec" in one.scores
    assert set(ours.forgotten) >= set(ours.known)
    assert set(peer.forgotten) >= set(peer.known)


def test_a_trial_without_an_answer_is_a_failure(
    long_log: EventLog, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = Fake("hytrec", order, per_s=50), Fake("peer", order, per_s=50)
    monkeypatch.setattr(peer, "window", lambda _: Window())
    _, points, _ = measured(long_log, [ours, peer])
    assert points[1]["notes"] == ["a run failed: no request was counted"]


def test_scores_are_asked_of_one_user_at_one_moment(long_log: EventLog, order: list[str]) -> None:
    ours, peer = Fake("hytrec", order, per_s=50), Fake("peer", order, per_s=50)
    one, _, _ = measured(long_log, [ours, peer])
    assert ours.asked == peer.asked == [("t-20-0", int(long_log.times[LENGTH - 1]) + 60)]
    assert [scores.tolist() for scores in one.scores.values()] == [[0, 1, 2, 3, 4]] * 2


def test_candidates_are_asked_for_only_where_they_are_ranked(long_log: EventLog, order: list[str]) -> None:
    _, _, factory = measured(long_log, [Fake("hytrec", order, per_s=50)], scenario=Scenario.APPEND)
    assert factory.candidates == {}
