"""The sorted events of a log, a page of whole users at a time, for logs that do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hytrec.data.keys import Int64Array, Keys
from hytrec.data.logs.engine import Engine
from hytrec.data.logs.grouping import Int32Array
from hytrec.data.logs.key_columns import CodedKeys
from hytrec.data.logs.times import TimeColumn, time_notes

__all__ = ["SortedLog", "UserPage"]

_PIECE = 1 << 20
"""Events that are fetched at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UserPage:
    """All events of some users, users in the order of their keys, oldest event first.

    Args:
        user_keys: (U,) int64 or 'S', increasing.
        offsets: (U + 1,) int64; events of user u are `offsets[u]:offsets[u + 1]` of the arrays below.
        item_codes: (E,) int32 positions in the log's `item_keys`.
        behavior_codes: (E,) int32 positions in its `behavior_keys`, -1 where there is none.
        times: (E,) int64 unix seconds.
    """

    user_keys: Keys
    offsets: Int64Array
    item_codes: Int32Array
    behavior_codes: Int32Array
    times: Int64Array


@dataclass(frozen=True, eq=False)
class _Piece:
    users: Int64Array
    items: Int32Array
    behaviors: Int32Array
    times: Int64Array

    def __getitem__(self, part: slice) -> _Piece:
        return _Piece(self.users[part], self.items[part], self.behaviors[part], self.times[part])

    def joined(self, other: _Piece) -> _Piece:
        return _Piece(
            np.concatenate([self.users, other.users]),
            np.concatenate([self.items, other.items]),
            np.concatenate([self.behaviors, other.behaviors]),
            np.concatenate([self.times, other.times]),
        )


class SortedLog:
    """A log in DuckDB's table "sorted".

    Args:
        users: None where the table holds the keys themselves, which are integers.
        item_keys, behavior_keys: (I,) and (A,) int64 or 'S', increasing; None where the log has no behaviors.
        behavior, second: SQL of an event's behavior code and unix second.
        rows: of the files.
        dropped: rows left out, by reason.
        columns: name of the column of every role.
        times: how they are read.
        notes: sentences about choices the user may want otherwise.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        users: CodedKeys | None,
        item_keys: Keys,
        behavior_keys: Keys | None,
        behavior: str,
        second: str,
        rows: int,
        dropped: dict[str, int],
        columns: dict[str, str],
        times: TimeColumn,
        notes: list[str],
    ) -> None:
        self.item_keys = item_keys
        self.behavior_keys = behavior_keys
        self.rows = rows
        self.dropped = dropped
        self.columns = columns
        self.users, self.last_s = engine.row(f"SELECT count(DISTINCT u), max({second}) FROM sorted")
        self.notes = notes + time_notes(columns["time"], times, self.last_s)
        self.events = rows - sum(dropped.values())
        self._engine = engine
        self._users = users
        self._columns = f"u, i, {behavior} AS b, {second} AS s"

    def pages(self, *, max_users: int, max_events: int) -> Iterator[UserPage]:
        """All users; a page has one user at least, and else so many users and events at most.

        Raises:
            duckdb.Error: what was sorted cannot be read from the disk.
        """
        left: _Piece | None = None
        for start in range(0, self.events, _PIECE):
            fetched = self._piece(start, start + _PIECE)
            piece = fetched if left is None else left.joined(fetched)
            ended = start + _PIECE >= self.events
            whole = len(piece.users) if ended else int(np.searchsorted(piece.users, piece.users[-1]))
            yield from self._split(piece[:whole], max_users, max_events)
            left = piece[whole:]

    def _piece(self, start: int, stop: int) -> _Piece:
        query = f"SELECT {self._columns} FROM sorted WHERE rowid >= {start} AND rowid < {stop}"
        users, items, behaviors, times = self._engine.arrays(query)
        codes = (items.astype(np.int32), behaviors.astype(np.int32))
        return _Piece(users.astype(np.int64), *codes, times.astype(np.int64))

    def _split(self, piece: _Piece, max_users: int, max_events: int) -> Iterator[UserPage]:
        users, starts = np.unique(piece.users, return_index=True)
        ends = np.append(starts[1:], len(piece.users))
        first = 0
        while first < users.size:
            last = int(np.searchsorted(ends, starts[first] + max_events, side="right"))
            last = min(max(first + 1, last), first + max_users)
            events = piece[starts[first] : ends[last - 1]]
            keys = users[first:last]
            yield UserPage(
                user_keys=self._users.keys_between(int(keys[0]), int(keys[-1])) if self._users else keys,
                offsets=np.append(starts[first:last], ends[last - 1]) - starts[first],
                item_codes=events.items,
                behavior_codes=events.behaviors,
                times=events.times,
            )
            first = last
