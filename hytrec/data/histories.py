"""Event logs as numpy histories: one flat array per field, users one after the other, oldest event first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hytrec.data.keys import Int64Array, Keys
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError

if TYPE_CHECKING:
    from hytrec.data.readers import KeyColumn

__all__ = ["Histories", "History", "Int64Array", "padded_rows", "read_histories"]


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """Events of one user, oldest first.

    Args:
        item_rows: (T,) int64, 1..I, I + 1 = unknown item.
        behavior_rows: (T,) int64, 0 = none.
        times: (T,) int64 unix seconds, never decreasing.
    """

    item_rows: Int64Array
    behavior_rows: Int64Array
    times: Int64Array

    def __len__(self) -> int:
        return self.item_rows.size

    def before(self, position: int) -> History:
        """The first `position` events (views, not copies)."""
        return History(
            item_rows=self.item_rows[:position],
            behavior_rows=self.behavior_rows[:position],
            times=self.times[:position],
        )


def padded_rows(rows: Sequence[Int64Array], *, width: int = 0) -> Int64Array:
    """B arrays of integers -> (B, X) int64, padded with 0 at the end; X is the longest length or `width`, if larger."""
    result = np.zeros((len(rows), max([width, *map(len, rows)])), np.int64)
    for line, row in zip(result, rows, strict=True):
        line[: row.size] = row
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """Events of all users; those of user u are `offsets[u]:offsets[u + 1]` of the flat arrays.

    Args:
        user_keys: (U,) int64 or 'S', increasing.
        offsets: (U + 1,) int64.
        item_rows: (E,) int64, 1..I, I + 1 = unknown item.
        behavior_rows: (E,) int64, 0 = none.
        times: (E,) int64 unix seconds, never decreasing within a user; ties keep the order of the source.
    """

    user_keys: Keys
    offsets: Int64Array
    item_rows: Int64Array
    behavior_rows: Int64Array
    times: Int64Array

    def __len__(self) -> int:
        return self.user_keys.size

    def __iter__(self) -> Iterator[History]:
        return (self.history(user) for user in range(len(self)))

    @property
    def lengths(self) -> Int64Array:
        """(U,) int64 events of every user."""
        return np.diff(self.offsets)

    def history(self, user: int) -> History:
        """Events of user 0..U - 1 (views, not copies)."""
        events = slice(self.offsets[user], self.offsets[user + 1])
        return History(
            item_rows=self.item_rows[events], behavior_rows=self.behavior_rows[events], times=self.times[events]
        )


def read_histories(
    path: Path,
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str = "timestamp",
    behavior_column: str | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[Histories, Vocabulary]:
    """Read an event log: Parquet, CSV or RecBole .inter.

    Keys are integers or strings; a text column of plain integers becomes int64, unless the vocabulary holds strings.

    Args:
        behavior_column: None takes the column "behavior" if there is one. An empty behavior is row 0.
        vocabulary: None makes one from the log (keys in increasing order). Keys it does not know map to its unknown
            item and to no behavior.

    Raises:
        DataError: the file is missing or damaged, a column is missing, there are no events, or a value is null or not
            allowed.
        VocabularyError: the keys are not of the given vocabulary's type.
    """
    try:
        from hytrec.data.readers import Columns, read_log  # noqa: PLC0415  pyarrow: the exporter reads no logs, has none
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name} is not installed; run: pip install 'hytrec-export[train]'") from error

    columns = Columns(user=user_column, item=item_column, time=time_column, behavior=behavior_column)
    log = read_log(Path(path), columns=columns, vocabulary=vocabulary)
    if vocabulary is None:
        behavior_keys = log.behaviors.keys if log.behaviors else np.empty(0, dtype="S1")
        vocabulary = Vocabulary(np.sort(log.items.keys), np.sort(behavior_keys))
    item_rows = log.items.spread(vocabulary.item_rows(log.items.keys))
    if log.behaviors:
        behavior_rows = log.behaviors.spread(vocabulary.behavior_rows(log.behaviors.keys))
    else:
        behavior_rows = np.zeros_like(log.times)
    return _grouped(log.users, item_rows, behavior_rows, log.times), vocabulary


def _grouped(users: KeyColumn, item_rows: Int64Array, behavior_rows: Int64Array, times: Int64Array) -> Histories:
    by_key = np.argsort(users.keys)
    ranks = np.empty_like(by_key)
    ranks[by_key] = np.arange(by_key.size)
    user_of_event = ranks[users.codes]
    order = np.lexsort((times, user_of_event))  # stable: equal times keep the order of the source
    counts = np.bincount(user_of_event, minlength=by_key.size)
    return Histories(
        user_keys=users.keys[by_key],
        offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        item_rows=item_rows[order],
        behavior_rows=behavior_rows[order],
        times=times[order],
    )
