"""The soak's sample of responses, its resource samples and its verdict: what goes wrong is seen."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import numpy as np
import pytest

from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_benchmarks.soak.actors import ABANDONED_S, MAX_ABANDONED, Actor, Workload
from hytrec_benchmarks.soak.checking import Comparison, Reservoir, Sample
from hytrec_benchmarks.soak.intruders import AWAY
from hytrec_benchmarks.soak.report import Soak, explanation
from hytrec_benchmarks.soak.watching import ResourceSample, growth, leaks
from hytrec_clients import Unavailable


def test_only_so_many_responses_are_kept() -> None:
    reservoir = Reservoir(size=3, random=random.Random(0))
    for number in range(50):
        scores = np.zeros(1, np.float32)
        reservoir.offer(Sample(user="ada", event_count=number, now=9, ranked=True, keys=[7], scores=scores))
    assert len(reservoir.samples) == 3
    assert max(sample.event_count for sample in reservoir.samples) > 10


def sample(megabytes: int, threads: int = 10) -> ResourceSample:
    return {"anonymous_bytes": megabytes << 20, "threads": threads, "files": 5, "used_bytes": 1000}


def test_growth_is_reported_once_the_server_is_warm() -> None:
    grown = growth([sample(1)] * 5 + [sample(100)] * 40 + [sample(130, threads=40)] * 10)
    assert grown["anonymous_bytes"] == (100 << 20, 130 << 20)
    assert list(leaks(grown, seconds=600)) == [
        "anonymous_bytes grew from 104,857,600 to 136,314,880; at most 110,100,480 is allowed",
        "threads grew from 10 to 40; at most 15 is allowed",
    ]
    assert len(list(leaks(grown, seconds=20))) == 1, "a short soak is warming up"


def test_samples_of_a_server_that_ended_count_for_nothing() -> None:
    ended: ResourceSample = {"used_bytes": 1000}
    assert growth([sample(7)] * 9 + [ended] * 90)["anonymous_bytes"] == (7 << 20, 7 << 20)
    assert growth([ended]) == {}


def test_a_store_may_grow_by_what_it_has_to_keep() -> None:
    kept = {"used_bytes": (1e6, 5e6), "kept_bytes": (0.5e6, 3.5e6)}
    assert list(leaks(kept, seconds=600)) == []
    (told,) = leaks({**kept, "kept_bytes": (0.5e6, 1e6)}, seconds=600)
    assert told == "used_bytes grew from 1,000,000 to 5,000,000; at most 2,648,576 is allowed"


def one_user() -> Workload:
    return Workload(
        ledger=EventLedger(["ada"], item_keys=[1], seed=0),
        responses=Reservoir(size=1, random=random.Random(0)),
        users=["ada"],
        candidates=[1],
        max_backfill=1,
        random=random.Random(0),
    )


def test_requests_are_abandoned_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    workload, now = one_user(), 1000.0
    monkeypatch.setattr("hytrec_benchmarks.soak.actors.time.monotonic", lambda: now)
    assert sum(workload.may_abandon() for _ in range(3 * MAX_ABANDONED)) == MAX_ABANDONED
    now += ABANDONED_S
    assert workload.may_abandon()


def test_an_unexpected_error_is_told_without_what_differs_each_time() -> None:
    workload = one_user()

    async def act() -> str:
        if workload.outcomes.total():
            workload.over.set()
        raise Unavailable(
            f"attempts: {workload.outcomes.total()}; retry with request_id 0a1b", attempts=1, request_id=None
        )

    asyncio.run(workload.repeat(Actor.WRITER, act))
    assert dict(workload.outcomes) == {(Actor.WRITER, "Unavailable: attempts: #; retry with request_id #"): 2}


UNANSWERED = {Actor.INVALID, Actor.MALFORMED, Actor.FUZZING}
SOUND = Soak(
    seconds=20.0,
    outcomes={(actor, "completed"): 1 for actor in Actor if actor not in UNANSWERED}
    | {
        (Actor.INVALID, "rejected"): 2,
        (Actor.MALFORMED, "sent"): 1,
        (Actor.FUZZING, "sent"): 1,
        (Actor.SHORT_DEADLINE, "DeadlineExceeded, retried"): 3,
    },
    faults={"lost": 0},
    comparison=Comparison(compared=3),
    growth={},
    crashed="",
    cut=1,
    undisturbed_s=20.0,
)


def test_a_sound_soak_has_no_failures() -> None:
    assert SOUND.failures() == []
    written = SOUND.to_dict()
    assert written["failures"] == []
    assert all(outcome["expected"] for outcome in written["outcomes"])


@pytest.mark.parametrize(
    ("broken", "failure"),
    [
        (replace(SOUND, crashed="hytrec_encoder"), "the server crashed: hytrec_encoder"),
        (replace(SOUND, faults={"lost": 2}), "2 events are lost"),
        (
            replace(SOUND, comparison=Comparison(compared=9, wrong=1, largest=0.5)),
            "1 of 9 responses are wrong, the scores of the worst by 0.5",
        ),
        (replace(SOUND, comparison=Comparison()), "no response was compared; soak for longer"),
        (
            replace(SOUND, outcomes={**SOUND.outcomes, (Actor.WRITER, "ServerFailed INTERNAL"): 4}),
            "writer: 4 times 'ServerFailed INTERNAL', which is not expected",
        ),
        (
            replace(SOUND, outcomes={key: n for key, n in SOUND.outcomes.items() if key[0] is not Actor.READER}),
            "reader: no request was made; soak for longer",
        ),
        (
            replace(SOUND, outcomes={**SOUND.outcomes, (Actor.MALFORMED, AWAY): 4}),
            "malformed: 4 times 'the server was away', which is not expected",
        ),
        (
            replace(SOUND, growth={"files": (10.0, 99.0)}),
            "files grew from 10 to 99; at most 35 is allowed",
        ),
    ],
)
def test_whatever_went_wrong_is_one_line(broken: Soak, failure: str) -> None:
    assert broken.failures() == [failure]


def test_requests_may_find_no_server_while_it_is_started_again() -> None:
    restarted = replace(SOUND, restarts=1, outcomes={**SOUND.outcomes, (Actor.MALFORMED, AWAY): 4})
    assert restarted.failures() == []
    assert restarted.to_dict()["restarts"] == 1


def test_an_invalid_request_must_not_be_completed() -> None:
    assert explanation(Actor.INVALID, "completed") is None
    assert explanation(Actor.INVALID, "times in milliseconds: completed") is None
    assert explanation(Actor.WRITER, "completed")
