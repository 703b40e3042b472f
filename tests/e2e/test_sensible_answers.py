"""Unusual and not wrong: finite, sensible answers."""

import time
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_clients import Events, HytrecClient

pytestmark = pytest.mark.e2e

CANDIDATES = [1000, 1150, 1299, 7]
"""The last one is unknown."""


@pytest.fixture
def client(served: Any) -> Any:
    with served.client() as client:
        yield client


def finite(client: HytrecClient, user: str, events: Events | None = None, **options: Any) -> Any:
    """A ranking and a recommendation whose scores are finite; the ranking."""
    ranking = client.rank(user, CANDIDATES, events, **options)
    assert ranking.scores.shape == (len(CANDIDATES),)
    assert np.isfinite(ranking.scores).all()
    best = client.recommend(user, **options)
    assert len(set(best.item_keys)) == 10
    assert set(best.item_keys) <= set(range(1000, 1300))
    assert np.isfinite(best.scores).all()
    assert (np.diff(best.scores) <= 0).all()
    return ranking


def test_a_user_nobody_knows(client: HytrecClient, served: Any) -> None:
    ranking = finite(client, "nobody")
    assert (ranking.receipt.event_count, ranking.receipt.applied) == (0, False)
    assert ranking.receipt.state_status is StateStatus.NEW
    assert served.user("nobody").status is StateStatus.NEW
    assert client.append("nobody").event_count == 0
    assert client.forget("nobody") is False


def test_a_call_without_events_reads_and_writes_nothing(client: HytrecClient, served: Any) -> None:
    client.append("reader", Events([1000, 1001, 1002], [10, 20, 30]))
    before = served.user("reader")
    first, second = finite(client, "reader", now=50), finite(client, "reader", now=50)
    np.testing.assert_array_equal(first.scores, second.scores)
    after = served.user("reader")
    assert (after.revision, after.event_count) == (before.revision, 3)


def test_now_before_the_last_event_is_now_at_the_last_event(client: HytrecClient) -> None:
    client.append("early", Events([1000, 1001], [1_000_000_000, 1_000_000_000]))
    at_last = finite(client, "early", now=1_000_000_000)
    np.testing.assert_allclose(finite(client, "early", now=1).scores, at_last.scores, rtol=0, atol=1e-5)


def test_unknown_items_are_events_like_others(client: HytrecClient, served: Any) -> None:
    ranking = finite(client, "unknown", Events([7, 1000, 2**62], [10, 20, 30], ["view", "sniff", "buy"]))
    assert ranking.receipt.event_count == 3
    events = served.user("unknown").events
    assert events.item_keys.tolist() == [7, 1000, 2**62]
    assert events.behavior_keys.tolist() == [b"view", b"sniff", b"buy"]


def test_a_late_event_counts_as_happening_at_the_last_one(client: HytrecClient, served: Any) -> None:
    client.append("late", Events([1000], [1_000_000_000]))
    ranking = finite(client, "late", Events([1001], [10]))
    assert ranking.receipt.event_count == 2
    assert served.user("late").events.times.tolist() == [1_000_000_000, 10]
    client.append("late", Events([1001] * 300, [10] * 300))  # so many that the state is kept before the response
    assert served.user("late").state["last_time"].tolist() == [1_000_000_000]


def test_the_same_event_may_happen_again_and_candidates_may_repeat(client: HytrecClient) -> None:
    finite(client, "again", Events([1000] * 500, [10] * 500))
    scores = client.rank("again", [1000, 1001, 1000]).scores
    assert scores[0] == scores[2]


def test_gaps_of_decades_and_the_clock_s_limit(client: HytrecClient) -> None:
    now = int(time.time())
    ranking = finite(client, "patient", Events([1000, 1001, 1002], [1, 1_000_000_000, now + 200]), now=now)
    assert ranking.receipt.event_count == 3


def test_everything_excluded_leaves_an_empty_answer(client: HytrecClient) -> None:
    best = client.recommend("picky", excluded_keys=list(range(1000, 1300)), top_k=300)
    assert best.item_keys == ()
    assert best.scores.shape == (0,)


def test_a_history_longer_than_the_server_takes_in_a_call(client: HytrecClient, built: Any) -> None:
    """The server tells its limit, which is under the client's own."""
    length = 2 * built.settings.limits.max_events + 1
    history = Events(1000 + np.arange(length) % 300, 1_000_000_000 + np.arange(length))
    assert client.backfill("long ago", history).event_count == length
