"""Event logs as numpy histories: one flat array per field, users one after the other, oldest event first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hytrec.data.keys import Int64Array, Keys
from hytrec.data.logs.options import LogOptions
from hytrec.data.logs.report import LogReport
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError

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

    def backwards(self) -> Histories:
        """Every history from its last event to its first, the times mirrored between the two."""
        firsts = np.repeat(self.offsets[:-1], self.lengths)
        lasts = np.repeat(self.offsets[1:], self.lengths) - 1
        places = firsts + lasts - np.arange(self.times.size)
        return Histories(
            user_keys=self.user_keys,
            offsets=self.offsets,
            item_rows=self.item_rows[places],
            behavior_rows=self.behavior_rows[places],
            times=self.times[firsts] + self.times[lasts] - self.times[places],
        )


def read_histories(
    path: Path | str | Sequence[Path | str],
    *,
    vocabulary: Vocabulary | None = None,
    tell: Callable[[LogReport], None] | None = None,
    **options: Any,
) -> tuple[Histories, Vocabulary]:
    """Read an event log: Parquet, CSV or any other separated text, JSON lines, RecBole .inter.

    Keys are integers or strings; a text column of plain integers becomes int64, unless the vocabulary holds strings.

    Args:
        path: a file, a folder or a pattern, or several that are one log.
        vocabulary: None makes one from the log (keys in increasing order). Keys it does not know map to its unknown
            item and to no behavior.
        tell: is given what was read.
        options: fields of `hytrec.data.logs.options.LogOptions`: columns, separator, encoding, time unit; what is left
            out is found by looking.

    Raises:
        DataError: a file is missing or damaged, a column is missing or not known, or a value is not allowed.
        VocabularyError: the keys are not of the given vocabulary's type.
    """
    try:
        from hytrec.data.logs.reader import read_log  # noqa: PLC0415  duckdb: the exporter reads no logs, has none
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name} is not installed; run: pip install 'hytrec-export[train]'") from error

    log = read_log(
        [path] if isinstance(path, Path | str) else path,
        options=LogOptions(**options),
        item_type=vocabulary.item_key_type if vocabulary else None,
        behavior_type=vocabulary.behavior_key_type if vocabulary else None,
    )
    if tell:
        tell(log.report)
    if vocabulary is None:
        vocabulary = Vocabulary(log.item_keys, np.empty(0, "S1") if log.behavior_keys is None else log.behavior_keys)
    if log.behavior_keys is None:
        behavior_rows = np.zeros(log.times.size, np.int64)
    else:
        behavior_rows = np.append(vocabulary.behavior_rows(log.behavior_keys), 0)[log.behavior_codes]
    return Histories(
        user_keys=log.user_keys,
        offsets=log.offsets,
        item_rows=vocabulary.item_rows(log.item_keys)[log.item_codes],
        behavior_rows=behavior_rows,
        times=log.times,
    ), vocabulary
