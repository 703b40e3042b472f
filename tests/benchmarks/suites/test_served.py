from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories, padded_rows
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import HyTRec
from hytrec.run_folder import Run, load_run, save_run
from hytrec_benchmarks.fixtures.reference_models import torch_chain
from hytrec_benchmarks.suites.served import (
    LAST_EVENTS,
    Result,
    choose_queries,
    in_process,
    latencies,
    overlap,
)
from hytrec_clients import Events, HytrecClient


class Client:
    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int, int]] = []

    def append(self, user: str, events: Events) -> None:
        self.requests.append(("append", user, int(events.item_keys[0]), len(events)))

    def rank(self, user: str, candidates: list[int], events: Events, *, now: int) -> None:
        self.requests.append(("rank", user, int(events.item_keys[0]), len(events)))
        assert candidates == [5, 6, 7]

    def recommend(self, user: str, events: Events, *, now: int) -> None:
        self.requests.append(("recommend", user, int(events.item_keys[0]), len(events)))


def test_the_endpoints_take_turns_with_one_event_a_request() -> None:
    client = Client()
    figures = latencies(cast("HytrecClient", client), ["ada", "bob"], [5, 6, 7], requests=3, now=9)
    turns = [("ada", 5), ("bob", 6), ("ada", 7), ("bob", 5)]  # the first of them is not timed
    for number, (user, key) in enumerate(turns):
        assert set(client.requests[3 * number : 3 * number + 3]) == {
            (endpoint, user, key, 1) for endpoint in ("append", "rank", "recommend")
        }
    assert len(client.requests) == 12
    assert figures.keys() == {
        f"served_{endpoint}_p{percentile}_ms" for endpoint in ("append", "rank", "recommend") for percentile in (50, 99)
    }
    assert all(value >= 0 for value in figures.values())


def result(rows: list[int], scores: list[float]) -> Result:
    return Result(scores=np.array(scores, np.float32), top_rows=np.array(rows), top_scores=np.array(scores, np.float32))


@pytest.mark.parametrize(
    ("rows", "scores", "share"),
    [
        ([1, 2, 3, 4], [4, 3, 2, 1], 1.0),
        ([1, 3, 2, 4], [4, 3, 2, 1], 1.0),
        ([1, 2, 3, 5], [4, 3, 2, 1.00001], 1.0),
        ([1, 2, 3, 5], [4, 3, 2, 1.5], 0.75),
        ([1, 2, 3], [4, 3, 2], 0.0),
    ],
)
def test_places_agree_by_item_or_by_a_tie(rows: list[int], scores: list[float], share: float) -> None:
    assert overlap(result(rows, scores), result([1, 2, 3, 4], [4, 3, 2, 1]), tolerance=1e-4) == share


def test_row_lists_are_padded_at_the_end() -> None:
    assert padded_rows([np.array([3, 4]), np.array([5])]).tolist() == [[3, 4], [5, 0]]


@pytest.fixture
def run(tmp_path: Path, config: ModelConfig, model: HyTRec) -> Run:
    vocabulary = Vocabulary(np.arange(100, 100 + config.items), np.arange(config.behaviors))
    save_run(tmp_path / "run", config=config, training={}, model=model, vocabulary=vocabulary, samples=[])
    return load_run(tmp_path / "run")


@pytest.fixture
def histories(config: ModelConfig) -> Histories:
    generator = np.random.default_rng(1)
    lengths = np.array([2, 3, 9, 5, 30])
    events = int(lengths.sum())
    return Histories(
        user_keys=np.arange(lengths.size),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=generator.integers(1, config.items + 1, events),
        behavior_rows=np.zeros(events, np.int64),
        times=np.arange(1, events + 1) * 1_000,
    )


def test_users_with_a_backfill_and_last_events_are_chosen(run: Run, histories: Histories) -> None:
    queries = choose_queries(histories, run, users=10, seed=0)
    assert [query.name for query in queries] == ["user-2", "user-3", "user-4"]
    assert all(len(query.history) > LAST_EVENTS for query in queries)
    assert all(run.config.items + 1 in query.candidates for query in queries)
    assert [len(query.history) for query in choose_queries(histories, run, users=2, seed=0)] == [9, 30]


def test_results_are_in_order_whatever_batch_a_user_was_in(run: Run, histories: Histories) -> None:
    queries = choose_queries(histories, run, users=10, seed=0)
    with torch_chain(run.model, sizes=run.config.sizes()) as chain:
        batched, alone = in_process(chain, queries), [in_process(chain, [query])[0] for query in queries]
    for one, other, query in zip(batched, alone, queries, strict=True):
        assert np.abs(one.scores - other.scores).max() < 1e-5
        assert overlap(one, other, tolerance=1e-5) == 1
        assert not set(one.top_rows.tolist()) & set(query.seen.tolist())
        assert (np.diff(one.top_scores) <= 0).all()


def test_candidates_are_ranked_before_the_last_event(run: Run, histories: Histories) -> None:
    query = choose_queries(histories, run, users=10, seed=0)[0]
    other_end = dataclasses.replace(
        query.history, item_rows=np.append(query.history.item_rows[:-1], query.history.item_rows[0])
    )
    changed = dataclasses.replace(query, history=other_end)
    with torch_chain(run.model, sizes=run.config.sizes()) as chain:
        (one,), (other,) = in_process(chain, [query]), in_process(chain, [changed])
    np.testing.assert_array_equal(one.scores, other.scores)
