"""Encoder, retriever and reranker run one after the other as in an ensemble, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import DType, Sizes, next_name
from hytrec.data.histories import History, Int64Array, padded_rows
from hytrec.signature import (
    BEHAVIOR_ROWS,
    CANDIDATE_ROWS,
    ENCODER,
    EXCLUDED_ROWS,
    ITEM_ROWS,
    LAST_MEMORY,
    NOW,
    RAW_SCORES,
    RERANKER,
    RETRIEVED_ROWS,
    RETRIEVER,
    ROW_TIMES,
    STATE,
    USER_FEATURES,
)
from hytrec_export.runtime.runners import Arrays, Runner

MAX_ROWS = 16
MAX_ELEMENTS = 1 << 15
"""Maximum users, and maximum events with padding, of one run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedUsers:
    """B encoded users.

    Args:
        state: the tensors of `hytrec.signature.STATE`.
        features: the tensors of `hytrec.signature.USER_FEATURES`, `now_s` left out.
    """

    state: Arrays
    features: Arrays

    def row(self, index: int) -> EncodedUsers:
        """One of them, as a batch of one."""
        return self.rows(index, index + 1)

    def rows(self, start: int, stop: int) -> EncodedUsers:
        """Those from `start` to `stop`, as a batch."""
        state, features = (
            {name: values[start:stop] for name, values in arrays.items()} for arrays in (self.state, self.features)
        )
        return EncodedUsers(state=state, features=features)


class ModelChain:
    """Encoder, retriever and reranker in one runtime.

    Args:
        runners: open runners by model name.
    """

    def __init__(self, runners: Mapping[str, Runner], *, sizes: Sizes) -> None:
        self._runners = runners
        self._sizes = sizes

    def encode(self, state: Arrays, events: Arrays) -> EncodedUsers:
        """Fold events into states.

        Args:
            state: tensors of `hytrec.signature.STATE`, each (B, ...): memory (B, L, H, K, V) float32, and so on.
            events: item_rows, behavior_rows and event_times, (B, T) int64 each, padded with 0 at the end.
        """
        outputs = self._runners[ENCODER.name].infer(state | events)
        after = {tensor.name: outputs[next_name(tensor.name)] for tensor in STATE}
        known = after | {LAST_MEMORY.name: outputs[LAST_MEMORY.name]}
        features = {tensor.name: known[tensor.name] for tensor in USER_FEATURES if tensor is not NOW}
        return EncodedUsers(state=after, features=features)

    def replay(
        self, chunks: Sequence[Sequence[History]], *, padding: int = 0, state: Arrays | None = None
    ) -> EncodedUsers:
        """Encode histories chunk by chunk; a user whose chunks are used up waits.

        Args:
            chunks: of each user, in order.
            padding: empty places after the longest chunk.
            state: of the users before, see `encode`; empty by default.
        """
        state = empty_state(self._sizes, len(chunks)) if state is None else state
        users = None
        for round_ in range(max(1, *map(len, chunks))):
            now = [own[round_] if round_ < len(own) else _NOTHING for own in chunks]
            users = self.encode(state, padded(now, length=max(1, *map(len, now)) + padding))
            state = users.state
        if users is None:  # for the type checker: there is one round at least
            raise ValueError(chunks)
        return users

    def retrieve(self, users: EncodedUsers, now_s: Int64Array, excluded_rows: Int64Array) -> Int64Array:
        """Best item rows (B, R); now_s (B, 1), excluded_rows (B, X)."""
        feed = users.features | {NOW.name: now_s, EXCLUDED_ROWS.name: excluded_rows}
        return self._runners[RETRIEVER.name].infer(feed)[RETRIEVED_ROWS.name]

    def rerank(self, users: EncodedUsers, now_s: Int64Array, candidate_rows: Int64Array) -> NDArray[np.float32]:
        """Scores (B, N); now_s (B, 1), candidate_rows (B, N)."""
        feed = users.features | {NOW.name: now_s, CANDIDATE_ROWS.name: candidate_rows}
        return self._runners[RERANKER.name].infer(feed)[RAW_SCORES.name]


def empty_state(sizes: Sizes, batch: int) -> Arrays:
    """State of `batch` users without events."""
    dtypes = {DType.FLOAT32: np.float32, DType.INT64: np.int64}
    return {tensor.name: np.zeros((batch, *sizes.shape(tensor)), dtypes[tensor.dtype]) for tensor in STATE}


def split_at(history: History, cuts: Sequence[int]) -> list[History]:
    """Chunks of a history (views): up to the first cut, from there to the next one, and so on."""
    return [
        History(
            item_rows=history.item_rows[start:stop],
            behavior_rows=history.behavior_rows[start:stop],
            times=history.times[start:stop],
        )
        for start, stop in zip([0, *cuts], [*cuts, len(history)], strict=True)
    ]


def split_every(history: History, events: int) -> list[History]:
    """Chunks of `events` events each, the last one shorter."""
    return split_at(history, range(events, len(history), events))


_NOTHING = History(item_rows=np.zeros(0, np.int64), behavior_rows=np.zeros(0, np.int64), times=np.zeros(0, np.int64))


def padded(histories: Sequence[History], *, length: int) -> Arrays:
    """Events of B users as the encoder takes them: (B, length) int64 each, zeros at the end."""
    columns = {
        ITEM_ROWS.name: [history.item_rows for history in histories],
        BEHAVIOR_ROWS.name: [history.behavior_rows for history in histories],
        ROW_TIMES.name: [history.times for history in histories],
    }
    return {name: padded_rows(rows, width=length) for name, rows in columns.items()}


def batches(histories: Sequence[History], *, max_rows: int, max_events: int) -> Iterator[list[int]]:
    """Indices of histories in batches of similar length, each small enough for one run."""
    together: list[int] = []
    for position in sorted(range(len(histories)), key=lambda position: len(histories[position])):
        steps = min(max_events, len(histories[position]))
        if together and (len(together) == min(max_rows, MAX_ROWS) or (len(together) + 1) * steps > MAX_ELEMENTS):
            yield together
            together = []
        together.append(position)
    if together:
        yield together
