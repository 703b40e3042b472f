"""The neural models of a build, run one after the other as an ensemble runs them, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hytrec.data import History, Int64Array
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
    DType,
    Sizes,
    next_name,
)
from hytrec_export.runners import Arrays, Runner

MAX_ROWS = 16
MAX_SLOTS = 1 << 15
"""Most users, and most events padding included, of one run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Users:
    """B encoded users.

    Args:
        state: the tensors of `hytrec.signature.STATE`.
        reading: what the retriever and the reranker take of a user, `now_s` left out.
    """

    state: Arrays
    reading: Arrays


class Chain:
    """Encoder, retriever and reranker in one runtime.

    Args:
        runners: open runners by model name.
    """

    def __init__(self, runners: Mapping[str, Runner], *, sizes: Sizes) -> None:
        self._runners = runners
        self._sizes = sizes

    def encode(self, state: Arrays, events: Arrays) -> Users:
        """Absorb events (B, T)."""
        outputs = self._runners[ENCODER.name].infer(state | events)
        after = {tensor.name: outputs[next_name(tensor.name)] for tensor in STATE}
        shared = {tensor.name for tensor in RERANKER.inputs} & set(after)
        reading = {name: after[name] for name in shared} | {LAST_MEMORY.name: outputs[LAST_MEMORY.name]}
        return Users(state=after, reading=reading)

    def replay(self, histories: Sequence[History], *, step: int, state: Arrays | None = None) -> Users:
        """Absorb whole histories, `step` events a run."""
        longest = max(len(history) for history in histories)
        users = None
        state = empty_state(self._sizes, len(histories)) if state is None else state
        for start in range(0, max(1, longest), step):
            users = self.encode(state, padded([part(history, start, start + step) for history in histories]))
            state = users.state
        if users is None:  # for the type checker: the range is never empty
            raise ValueError(longest)
        return users

    def retrieve(self, users: Users, now_s: Int64Array, excluded_rows: Int64Array) -> Int64Array:
        """Best item rows (B, R); now_s (B, 1), excluded_rows (B, X)."""
        feed = users.reading | {NOW.name: now_s, EXCLUDED_ROWS.name: excluded_rows}
        return self._runners[RETRIEVER.name].infer(feed)[RETRIEVED_ROWS.name]

    def rerank(self, users: Users, now_s: Int64Array, candidate_rows: Int64Array) -> np.ndarray:
        """Scores (B, N) float32; now_s (B, 1), candidate_rows (B, N)."""
        feed = users.reading | {NOW.name: now_s, CANDIDATE_ROWS.name: candidate_rows}
        return self._runners[RERANKER.name].infer(feed)[RAW_SCORES.name]


def empty_state(sizes: Sizes, batch: int) -> Arrays:
    """State of `batch` users without events."""
    dtypes = {DType.FLOAT32: np.float32, DType.INT64: np.int64}
    return {tensor.name: np.zeros((batch, *sizes.shape(tensor)), dtypes[tensor.dtype]) for tensor in STATE}


def part(history: History, start: int, stop: int) -> History:
    """Events start..stop - 1 of a history (views); none where it is shorter."""
    return History(
        item_rows=history.item_rows[start:stop],
        behavior_rows=history.behavior_rows[start:stop],
        times=history.times[start:stop],
    )


def padded(histories: Sequence[History], *, length: int = 1) -> Arrays:
    """Events of B users as the encoder takes them: (B, T) int64, zeros at the end, T at least `length`."""
    steps = max(length, *(len(history) for history in histories))
    names = (ITEM_ROWS.name, BEHAVIOR_ROWS.name, ROW_TIMES.name)
    events = {name: np.zeros((len(histories), steps), np.int64) for name in names}
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
        if together and (len(together) == min(max_rows, MAX_ROWS) or (len(together) + 1) * steps > MAX_SLOTS):
            yield together
            together = []
        together.append(position)
    if together:
        yield together
