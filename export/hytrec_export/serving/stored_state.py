"""A stored user as the encoder takes one: the state after n events, and the rows of the events since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import DType, Sizes, next_name
from hytrec.signature import (
    BEHAVIOR_ROWS,
    EVENT_COUNT,
    ITEM_ROWS,
    ROW_TIMES,
    STATE,
    WINDOW_BEHAVIORS,
    WINDOW_ITEMS,
    WINDOW_TIMES,
)
from hytrec_export.errors import GraphError
from hytrec_export.state.snapshot import SNAPSHOT
from hytrec_export.state.store import StoredUser

Rows: TypeAlias = NDArray[np.int64]
Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Encode: TypeAlias = Callable[[Arrays], Arrays]
"""Inputs of `hytrec.signature.ENCODER`, batch axis 1 -> its outputs."""

EVENT_ROWS = (ITEM_ROWS.name, BEHAVIOR_ROWS.name, ROW_TIMES.name)
_WINDOWS = (WINDOW_ITEMS.name, WINDOW_BEHAVIORS.name, WINDOW_TIMES.name)


@dataclass(kw_only=True, eq=False)
class EventRows:
    """Rows and times of events, each (T,) int64."""

    items: Rows
    behaviors: Rows
    times: Rows

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, part: slice) -> EventRows:
        return EventRows(items=self.items[part], behaviors=self.behaviors[part], times=self.times[part])

    def columns(self) -> tuple[Rows, Rows, Rows]:
        """In the order of `EVENT_ROWS`, and of the window's tensors."""
        return self.items, self.behaviors, self.times


def absent_state(sizes: Sizes) -> dict[str, NDArray[Any]]:
    """State of a user without events, no batch axis: zeros."""
    return {
        tensor.name: np.zeros(sizes.shape(tensor), np.float32 if tensor.dtype is DType.FLOAT32 else np.int64)
        for tensor in STATE
    }


def first_needed(user: StoredUser, window: int) -> int:
    """Number of the first stored event that the window before the state reaches."""
    return max(user.start, user.base - window)


def state_tensors(user: StoredUser, before: EventRows, absent: Arrays) -> dict[str, NDArray[Any]]:
    """The tensors of `hytrec.signature.STATE` after `user.base` events.

    Args:
        before: the last events that the state has absorbed, W or all there are.
        absent: `absent_state`.
    """
    tensors = {**absent, **(user.state or {}), EVENT_COUNT.name: np.array([user.base], np.int64)}
    for name, values in zip(_WINDOWS, before.columns(), strict=True):
        size = len(absent[name])
        window = np.zeros(size, np.int64)
        if len(values):
            window[size - len(values[-size:]) :] = values[-size:]
        tensors[name] = window
    return tensors


def encoded(state: Arrays, events: EventRows, encode: Encode, *, part_events: int) -> dict[str, NDArray[Any]]:
    """The state after more events, encoded in parts, so that other requests get their turn in between.

    Args:
        state: of `state_tensors`.
    """
    tensors = {name: values[None] for name, values in state.items()}
    for start in range(0, len(events), part_events):
        columns = events[start : start + part_events].columns()
        outputs = encode(tensors | {name: values[None] for name, values in zip(EVENT_ROWS, columns, strict=True)})
        tensors = {tensor.name: outputs[next_name(tensor.name)] for tensor in STATE}
    return {name: values[0] for name, values in tensors.items()}


def check_encoded(state: Arrays) -> None:
    """Raises: GraphError: a tensor of `snapshot.SNAPSHOT` that the encoder made holds numbers that are not finite."""
    for tensor in SNAPSHOT:
        check_finite(state[tensor.name], f"the encoder's {tensor.name.replace('_', ' ')}")


def check_finite(values: NDArray[Any], name: str) -> None:
    """Raises: GraphError: a graph made numbers that are not finite; `name` says which ones."""
    if not np.isfinite(values).all():
        raise GraphError(f"{name} are not finite numbers, so nothing was stored; run: hytrec-export verify REPOSITORY")
