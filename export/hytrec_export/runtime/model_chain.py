"""The neural models of a build, run one after the other as an ensemble runs them, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import DType, Sizes, next_name
from hytrec.data.histories import History, Int64Array
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
"""Most users, and most events padding included, of one run."""


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
        state, features = (
            {name: values[index : index + 1] for name, values in arrays.items()}
            for arrays in (self.state, self.features)
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
        """Absorb events (B, T)."""
        outputs = self._runners[ENCODER.name].infer(state | events)
        after = {tensor.name: outputs[next_name(tensor.name)] for tensor in STATE}
        known = after | {LAST_MEMORY.name: outputs[LAST_MEMORY.name]}
        features = {tensor.name: known[tensor.name] for tensor in USER_FEATURES if tensor is not NOW}
        return EncodedUsers(state=after, features=features)

    def replay(self, parts: Sequence[Sequence[History]], *, padding: int = 0) -> EncodedUsers:
        """Absorb histories in parts, starting from nothing; a user whose parts are used up waits.

        Args:
            parts: of each user, in order.
            padding: empty places after the longest part.
        """
        state = empty_state(self._sizes, len(parts))
        users = None
        for round_ in range(max(1, *map(len, parts))):
            now = [own[round_] if round_ < len(own) else _NOTHING for own in parts]
            users = self.encode(state, padded(now, length=max(1, *map(len, now)) + padding))
            state = users.state
        if users is None:  # for the type checker: there is one round at least
            raise ValueError(parts)
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
    """Parts of a history (views): up to the first cut, from there to the next one, and so on."""
    return [
        History(
            item_rows=history.item_rows[start:stop],
            behavior_rows=history.behavior_rows[start:stop],
            times=history.times[start:stop],
        )
        for start, stop in zip([0, *cuts], [*cuts, len(history)], strict=True)
    ]


def split_every(history: History, events: int) -> list[History]:
    """Parts of `events` events each, the last one shorter."""
    return split_at(history, range(events, len(history), events))


_NOTHING = History(item_rows=np.zeros(0, np.int64), behavior_rows=np.zeros(0, np.int64), times=np.zeros(0, np.int64))


def padded(histories: Sequence[History], *, length: int) -> Arrays:
    """Events of B users as the encoder takes them: (B, length) int64 each, zeros at the end."""
    names = (ITEM_ROWS.name, BEHAVIOR_ROWS.name, ROW_TIMES.name)
    events = {name: np.zeros((len(histories), length), np.int64) for name in names}
    for row, history in enumerate(histories):
        fields = (history.item_rows, history.behavior_rows, history.times)
        for name, values in zip(names, fields, strict=True):
            events[name][row, : len(history)] = values
    return events


def batches(histories: Sequence[History], *, max_rows: int, max_events: int) -> Iterator[list[int]]:
    """Positions of histories of about one length, few enough for one run."""
    together: list[int] = []
    for position in sorted(range(len(histories)), key=lambda position: len(histories[position])):
        steps = min(max_events, len(histories[position]))
        if together and (len(together) == min(max_rows, MAX_ROWS) or (len(together) + 1) * steps > MAX_ELEMENTS):
            yield together
            together = []
        together.append(position)
    if together:
        yield together
