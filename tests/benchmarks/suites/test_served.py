from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import HyTRec
from hytrec.run_folder import Run, load_run, save_run
from hytrec_benchmarks.fixtures.reference_models import torch_chain
from hytrec_benchmarks.suites.served import (
    LAST_EVENTS,
    Reply,
    answer,
    choose_questions,
    overlap,
    score_difference,
    together,
)


def reply(rows: list[int], scores: list[float]) -> Reply:
    return Reply(scores=np.array(scores, np.float32), top_rows=np.array(rows), top_scores=np.array(scores, np.float32))


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
    assert overlap(reply(rows, scores), reply([1, 2, 3, 4], [4, 3, 2, 1]), tolerance=1e-4) == share


def test_the_largest_score_difference_of_any_pair_counts() -> None:
    assert score_difference([reply([], [0.0, 1.0]), reply([], [0.5, 1.0]), reply([], [-0.25, 1.0])]) == 0.75


def test_row_lists_are_padded_at_the_end() -> None:
    assert together([np.array([3, 4]), np.array([5])]).tolist() == [[3, 4], [5, 0]]


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
    questions = choose_questions(histories, run, users=10, seed=0)
    assert [question.name for question in questions] == ["user-2", "user-3", "user-4"]
    assert all(len(question.history) > LAST_EVENTS for question in questions)
    assert all(run.config.items + 1 in question.candidates for question in questions)
    assert [len(question.history) for question in choose_questions(histories, run, users=2, seed=0)] == [9, 30]


def test_users_are_answered_in_order_whatever_batch_they_were_in(run: Run, histories: Histories) -> None:
    questions = choose_questions(histories, run, users=10, seed=0)
    with torch_chain(run.model, sizes=run.config.sizes()) as chain:
        together_, alone = answer(chain, questions), [answer(chain, [question])[0] for question in questions]
    for one, other, question in zip(together_, alone, questions, strict=True):
        assert score_difference([one, other]) < 1e-5
        assert overlap(one, other, tolerance=1e-5) == 1
        assert not set(one.top_rows.tolist()) & set(question.seen.tolist())
        assert (np.diff(one.top_scores) <= 0).all()


def test_ranking_is_asked_before_the_last_event(run: Run, histories: Histories) -> None:
    question = choose_questions(histories, run, users=10, seed=0)[0]
    other_end = dataclasses.replace(
        question.history, item_rows=np.append(question.history.item_rows[:-1], question.history.item_rows[0])
    )
    changed = dataclasses.replace(question, history=other_end)
    with torch_chain(run.model, sizes=run.config.sizes()) as chain:
        (one,), (other,) = answer(chain, [question]), answer(chain, [changed])
    np.testing.assert_array_equal(one.scores, other.scores)
