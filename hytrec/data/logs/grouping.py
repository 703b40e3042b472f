"""The sorted events of a log as arrays, fetched piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hytrec.data.keys import Int64Array
from hytrec.data.logs.engine import Engine

__all__ = ["Grouped", "Int32Array", "grouped"]

Int32Array: TypeAlias = npt.NDArray[np.int32]

_CHUNK = 1 << 21


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouped:
    """Events by user.

    Args:
        users: (U,) column "u" of the table, increasing.
        counts: (U,) int64 events of every user.
        items: (E,) int32.
        behaviors: (E,) int32, -1 where there is none.
        seconds: (E,) int64.
        repeats: events of an item that the user has had before.
    """

    users: Int64Array
    counts: Int64Array
    items: Int32Array
    behaviors: Int32Array
    seconds: Int64Array
    repeats: int


def grouped(engine: Engine, *, events: int, items: int, behavior: str, second: str) -> Grouped:
    """Fetch the table "sorted": users "u" in increasing order, items "i", and what the two expressions read.

    Args:
        events: rows of the table, at least one.
        items: how many item codes there are.
        behavior: SQL of an event's behavior.
        second: SQL of its unix second.
    """
    item_codes, behaviors = np.empty(events, np.int32), np.empty(events, np.int32)
    seconds = np.empty(events, np.int64)
    users, starts = [], []
    last, begun, different, open_pairs = None, -1, 0, np.empty(0, np.int64)
    for start in range(0, events, _CHUNK):
        piece = slice(start, start + _CHUNK)
        u, i, behaviors[piece], seconds[piece] = engine.arrays(
            f"SELECT u, i, {behavior}, {second} FROM sorted WHERE rowid >= {piece.start} AND rowid < {piece.stop}"
        )
        item_codes[piece] = i
        begins = np.concatenate([[last is None or u[0] != last], u[1:] != u[:-1]])
        last, places = u[-1], np.flatnonzero(begins)
        users.append(u[places])
        starts.append(start + places)
        numbers = begun + np.cumsum(begins)
        begun = int(numbers[-1])
        pairs = np.unique(np.concatenate([open_pairs, numbers * items + i]))
        closed = int(np.searchsorted(pairs, begun * items))  # the last user may go on in the next piece
        different, open_pairs = different + closed, pairs[closed:]
    return Grouped(
        users=np.concatenate(users).astype(np.int64),
        counts=np.diff(np.concatenate([*starts, [events]])),
        items=item_codes,
        behaviors=behaviors,
        seconds=seconds,
        repeats=events - different - open_pairs.size,
    )
