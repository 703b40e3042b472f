"""What the quality gate asks, and one set of graphs that answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History, Int64Array
from hytrec.signature import EXCLUDED_ROWS, NOW, RETRIEVED_ROWS, RETRIEVER
from hytrec_export.runtime.model_chain import EncodedUsers, ModelChain, split_every
from hytrec_export.runtime.runners import Runner
from hytrec_export.settings import Limits, ServingSettings
from hytrec_export.verification.parity.golden import CATALOGUE_SCORES
from hytrec_export.verification.quality.fp16_emulation import Fp16EmulationRunner

LEAST_EVENTS = 3
"""A shorter history has nothing to be evaluated by; see `hytrec.data.split`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalQuery:
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


def question_of(history: History, *, items: int) -> EvalQuery:
    """The last event of a history (of one event at least) is to be predicted, as in `hytrec.data.split`."""
    before = history.before(len(history) - 1)
    target, seen = int(history.item_rows[-1]), np.unique(before.item_rows)
    asked = len(history) >= LEAST_EVENTS and target <= items and target not in seen
    return EvalQuery(history=before, now_s=int(history.times[-1]), target=target if asked else 0, seen=seen)


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphSet:
    """One set of graphs.

    Args:
        retriever: gives the scores of the whole catalogue too.
    """

    chain: ModelChain
    retriever: Runner
    limits: Limits

    def encode(self, questions: Sequence[EvalQuery], *, padding: int = 0) -> EncodedUsers:
        """Users after their histories."""
        parts = [split_every(question.history, self.limits.max_events) for question in questions]
        return self.chain.replay(parts, padding=padding)

    def retrieve(self, users: EncodedUsers, questions: Sequence[EvalQuery]) -> tuple[Int64Array, NDArray[np.float32]]:
        """Rows (B, R), as many as the reranker takes, and the scores of all rows (B, I + 2), -inf of those hidden."""
        feed = users.features | {NOW.name: times(questions), EXCLUDED_ROWS.name: seen_rows(questions)}
        outputs = self.retriever.infer(feed)
        return outputs[RETRIEVED_ROWS.name][:, : self.limits.max_candidates], outputs[CATALOGUE_SCORES]

    def reply(self, questions: Sequence[EvalQuery]) -> EvalResult:
        """Answers to questions, all at once."""
        users = self.encode(questions)
        rows, catalogue = self.retrieve(users, questions)
        scores = self.chain.rerank(users, times(questions), rows)
        return EvalResult(users=users, rows=rows, catalogue=catalogue, scores=scores)


def opened(graphs: Mapping[str, Path], settings: ServingSettings, stack: ExitStack) -> GraphSet:
    """A set of graphs, ready to run until the stack is left."""
    runners = {name: stack.enter_context(Fp16EmulationRunner(path)) for name, path in graphs.items()}
    return GraphSet(
        chain=ModelChain(runners, sizes=settings.sizes), retriever=runners[RETRIEVER.name], limits=settings.limits
    )


def seen_rows(questions: Sequence[EvalQuery]) -> Int64Array:
    """Seen rows side by side, (B, X), padded with 0."""
    rows = np.zeros((len(questions), max(1, *(question.seen.size for question in questions))), np.int64)
    for row, question in zip(rows, questions, strict=True):
        row[: question.seen.size] = question.seen
    return rows


def times(questions: Sequence[EvalQuery]) -> Int64Array:
    """now_s (B, 1)."""
    return np.array([[question.now_s] for question in questions], np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalResult:
    """Answers of one set of graphs to B questions; scores (B, R) are those of its own rows (B, R)."""

    users: EncodedUsers
    rows: Int64Array
    catalogue: NDArray[np.float32]
    scores: NDArray[np.float32]

    def ordered(self) -> Int64Array:
        """Rows by score, best first; equal scores in the retriever's order, empty places last: (B, R)."""
        best_first = np.argsort(np.where(self.rows > 0, -self.scores, np.inf), axis=1, kind="stable")
        return np.take_along_axis(self.rows, best_first, 1)
