"""What the quality gate asks, and one set of graphs that answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.data import History, Int64Array
from hytrec.signature import EXCLUDED_ROWS, NOW, RETRIEVED_ROWS, RETRIEVER
from hytrec_export.answers import CATALOGUE_SCORES
from hytrec_export.chain import Chain, Users, split_every
from hytrec_export.rounding import RoundingRunner
from hytrec_export.runners import Runner
from hytrec_export.serving import Limits, ServingSettings

LEAST_EVENTS = 3
"""A shorter history has nothing to be evaluated by; see `hytrec.split`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is asked of a history.

    Args:
        history: without its last event. now_s: time of that event.
        target: its item row; 0 where it cannot be predicted.
        seen: (x,) int64 item rows.
    """

    history: History
    now_s: int
    target: int
    seen: Int64Array


def question_of(history: History, *, items: int) -> Question:
    """The last event of a history (of one event at least) is to be predicted, if `hytrec.split` would ask for it."""
    before = history.before(len(history) - 1)
    target, seen = int(history.item_rows[-1]), np.unique(before.item_rows)
    asked = len(history) >= LEAST_EVENTS and target <= items and target not in seen
    return Question(history=before, now_s=int(history.times[-1]), target=target if asked else 0, seen=seen)


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One set of graphs.

    Args:
        retriever: gives the scores of the whole catalogue too.
    """

    chain: Chain
    retriever: Runner
    limits: Limits

    def encode(self, questions: Sequence[Question], *, padding: int = 0) -> Users:
        """Users after their histories."""
        parts = [split_every(question.history, self.limits.max_events) for question in questions]
        return self.chain.replay(parts, padding=padding)

    def retrieve(self, users: Users, questions: Sequence[Question]) -> tuple[Int64Array, NDArray[np.float32]]:
        """Rows (B, R), as many as the reranker takes, and the scores of all rows (B, I + 2), -inf of those hidden."""
        feed = users.reading | {NOW.name: times(questions), EXCLUDED_ROWS.name: seen_rows(questions)}
        outputs = self.retriever.infer(feed)
        return outputs[RETRIEVED_ROWS.name][:, : self.limits.max_candidates], outputs[CATALOGUE_SCORES]

    def reply(self, questions: Sequence[Question]) -> Reply:
        """Answers to questions, all at once."""
        users = self.encode(questions)
        rows, catalogue = self.retrieve(users, questions)
        scores = self.chain.rerank(users, times(questions), rows)
        return Reply(users=users, rows=rows, catalogue=catalogue, scores=scores)


def opened(graphs: Mapping[str, Path], settings: ServingSettings, stack: ExitStack) -> Side:
    """A set of graphs, ready to run until the stack is left."""
    runners = {name: stack.enter_context(RoundingRunner(path)) for name, path in graphs.items()}
    return Side(chain=Chain(runners, sizes=settings.sizes), retriever=runners[RETRIEVER.name], limits=settings.limits)


def seen_rows(questions: Sequence[Question]) -> Int64Array:
    """Seen rows side by side, (B, X), padded with 0."""
    rows = np.zeros((len(questions), max(1, *(question.seen.size for question in questions))), np.int64)
    for row, question in zip(rows, questions, strict=True):
        row[: question.seen.size] = question.seen
    return rows


def times(questions: Sequence[Question]) -> Int64Array:
    """now_s (B, 1)."""
    return np.array([[question.now_s] for question in questions], np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """Answers of one set of graphs to B questions; scores (B, R) are those of its own rows (B, R)."""

    users: Users
    rows: Int64Array
    catalogue: NDArray[np.float32]
    scores: NDArray[np.float32]

    def ordered(self) -> Int64Array:
        """Rows by score, best first; equal scores in the retriever's order, empty places last: (B, R)."""
        best_first = np.argsort(np.where(self.rows > 0, -self.scores, np.inf), axis=1, kind="stable")
        return np.take_along_axis(self.rows, best_first, 1)
