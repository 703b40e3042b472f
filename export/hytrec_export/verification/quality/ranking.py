"""Queries of the quality gate, and a set of graphs that evaluates them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History, Int64Array, padded_rows
from hytrec.signature import EXCLUDED_ROWS, NOW, RETRIEVED_ROWS, RETRIEVER
from hytrec_export.runtime.item_vectors import with_lookups
from hytrec_export.runtime.model_chain import EncodedUsers, ModelChain, split_every
from hytrec_export.runtime.runners import Runner
from hytrec_export.settings import Limits, ServingSettings
from hytrec_export.verification.parity.golden import CATALOGUE_SCORES
from hytrec_export.verification.quality.fp16_emulation import Fp16EmulationRunner

MIN_EVENTS = 3
"""A shorter history has nothing to be evaluated by; see `hytrec.data.split`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalQuery:
    """The prediction of a history's last event.

    Args:
        history: without its last event. now_s: time of that event.
        target: its item row; 0 where it cannot be predicted.
        seen: (x,) int64 item rows.
    """

    history: History
    now_s: int
    target: int
    seen: Int64Array


def query_of(history: History, *, items: int) -> EvalQuery:
    """The last event of a history (of one event at least) is to be predicted, as in `hytrec.data.split`."""
    before = history.before(len(history) - 1)
    target, seen = int(history.item_rows[-1]), np.unique(before.item_rows)
    predictable = len(history) >= MIN_EVENTS and target <= items and target not in seen
    return EvalQuery(history=before, now_s=int(history.times[-1]), target=target if predictable else 0, seen=seen)


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphSet:
    """One set of graphs.

    Args:
        retriever: gives the scores of the whole catalogue too.
    """

    chain: ModelChain
    retriever: Runner
    limits: Limits

    def encode(self, queries: Sequence[EvalQuery], *, padding: int = 0) -> EncodedUsers:
        """Users after their histories."""
        chunks = [split_every(query.history, self.limits.max_events) for query in queries]
        return self.chain.replay(chunks, padding=padding)

    def retrieve(self, users: EncodedUsers, queries: Sequence[EvalQuery]) -> tuple[Int64Array, NDArray[np.float32]]:
        """Rows (B, R), as many as the reranker takes, and the scores of all rows (B, I + 2), -inf of those hidden."""
        feed = users.features | {NOW.name: times(queries), EXCLUDED_ROWS.name: seen_rows(queries)}
        outputs = self.retriever.infer(feed)
        return outputs[RETRIEVED_ROWS.name][:, : self.limits.max_candidates], outputs[CATALOGUE_SCORES]

    def evaluate(self, queries: Sequence[EvalQuery]) -> EvalResult:
        """Results of queries, in one batch."""
        users = self.encode(queries)
        rows, catalogue = self.retrieve(users, queries)
        scores = self.chain.rerank(users, times(queries), rows)
        return EvalResult(users=users, rows=rows, catalogue=catalogue, scores=scores)


def opened(graphs: Mapping[str, Path], settings: ServingSettings, stack: ExitStack) -> GraphSet:
    """A set of graphs, ready to run until the stack is left."""
    folder = next(iter(graphs.values())).parent
    found = with_lookups({name: Fp16EmulationRunner(path) for name, path in graphs.items()}, folder, settings)
    runners = {name: stack.enter_context(runner) for name, runner in found.items()}
    return GraphSet(
        chain=ModelChain(runners, sizes=settings.sizes),
        retriever=runners[RETRIEVER.name],
        limits=settings.checked_limits,
    )


def seen_rows(queries: Sequence[EvalQuery]) -> Int64Array:
    """Seen rows side by side, (B, X), padded with 0."""
    return padded_rows([query.seen for query in queries], width=1)


def times(queries: Sequence[EvalQuery]) -> Int64Array:
    """now_s (B, 1)."""
    return np.array([[query.now_s] for query in queries], np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalResult:
    """Results of one set of graphs for B queries; scores (B, R) are those of its own rows (B, R)."""

    users: EncodedUsers
    rows: Int64Array
    catalogue: NDArray[np.float32]
    scores: NDArray[np.float32]

    def ordered(self) -> Int64Array:
        """Rows by score, best first; equal scores in the retriever's order, empty places last: (B, R)."""
        best_first = np.argsort(np.where(self.rows > 0, -self.scores, np.inf), axis=1, kind="stable")
        return np.take_along_axis(self.rows, best_first, 1)
