"""Read a log: files -> the view "raw" -> keys, times -> events in order, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from hytrec.contract import DType
from hytrec.data.keys import Int64Array, Keys
from hytrec.data.logs.engine import Engine, opened_engine, reading_error
from hytrec.data.logs.files import found_files
from hytrec.data.logs.grouping import Int32Array, grouped
from hytrec.data.logs.key_columns import INTEGERS, CodedKeys, RowError, coded_keys
from hytrec.data.logs.loading import Source, loaded, naming
from hytrec.data.logs.options import LogOptions
from hytrec.data.logs.report import EventsPerUser, LogReport, behavior_names
from hytrec.data.logs.sorted_log import SortedLog
from hytrec.data.logs.times import TimeColumn, read_times, time_notes
from hytrec.errors import DataError
from hytrec.signature import MAX_TIME_S

__all__ = ["Log", "read_log", "sorted_log"]

_MAX_RECOGNISED_BEHAVIORS = 1_000
_VALID = "raw.user IS NOT NULL AND raw.item IS NOT NULL AND raw.time IS NOT NULL"
_MISSING = {
    "without a user": "raw.user IS NULL",
    "without an item": "raw.user IS NOT NULL AND raw.item IS NULL",
    "without a time": "raw.user IS NOT NULL AND raw.item IS NOT NULL AND raw.time IS NULL",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Log:
    """Events of a log, users one after the other in the order of their keys, oldest event first.

    Args:
        user_keys: (U,) int64 or 'S', increasing.
        offsets: (U + 1,) int64; events of user u are `offsets[u]:offsets[u + 1]` of the arrays below.
        item_keys: (I,) int64 or 'S', increasing.
        item_codes: (E,) int32 positions in `item_keys`.
        behavior_keys: (A,) int64 or 'S', increasing; None where the log has no behaviors.
        behavior_codes: (E,) int32 positions in `behavior_keys`, -1 where there is none.
        times: (E,) int64 unix seconds; equal times keep the order within the second, then that of the source.
        report: what was read.
    """

    user_keys: Keys
    offsets: Int64Array
    item_keys: Keys
    item_codes: Int32Array
    behavior_keys: Keys | None
    behavior_codes: Int32Array
    times: Int64Array
    report: LogReport


def read_log(
    paths: Sequence[Path | str],
    *,
    options: LogOptions | None = None,
    item_type: DType | None = None,
    behavior_type: DType | None = None,
) -> Log:
    """Read event logs; several files are one log, in the order given.

    Args:
        paths: files, folders and patterns.
        options: what is known about them.
        item_type: of a vocabulary: BYTES keeps the plain integers of a text file as texts.
        behavior_type: as the items'.

    Raises:
        DataError: a file is missing or damaged, a column is missing or not known, or a value is not allowed.
    """
    with _reading(paths, options or LogOptions()) as reading:
        return reading.log(item_type=item_type, behavior_type=behavior_type)


@contextmanager
def sorted_log(
    paths: Sequence[Path | str],
    *,
    options: LogOptions | None = None,
    item_type: DType | None = None,
    behavior_type: DType | None = None,
) -> Iterator[SortedLog]:
    """`read_log` of a log that need not fit into memory: sorted on disk (in TMPDIR), and read in pages of users.

    Raises:
        DataError: as `read_log`, also while pages are read.
    """
    with _reading(paths, options or LogOptions()) as reading:
        yield reading.sorted(item_type=item_type, behavior_type=behavior_type)


@contextmanager
def _reading(paths: Sequence[Path | str], options: LogOptions) -> Iterator[_Reading]:
    """A log that is loaded; what DuckDB and rows say of it becomes a `DataError`."""
    with opened_engine(options.memory_limit) as engine:
        files = found_files(paths, folder=engine.folder)
        try:
            source = loaded(engine, files, options)
            yield _Reading(engine, source, options)
        except RowError as error:
            raise DataError(f"{source.place(error.line)}: {error}") from error
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise reading_error(error, files) from error


@dataclass(frozen=True)
class _Prepared:
    """What the table "sorted" is made of.

    Args:
        users: None where the keys are integers, which stand in it themselves.
    """

    rows: int
    dropped: dict[str, int]
    times: TimeColumn
    users: CodedKeys | None
    items: CodedKeys
    behaviors: CodedKeys | None
    notes: list[str]

    @property
    def behavior(self) -> str:
        """SQL of an event's behavior code, -1 where there is none."""
        return "b" if self.behaviors else "-1"

    @property
    def second(self) -> str:
        """SQL of an event's unix second."""
        return f"({self.times.second})::BIGINT"


class _Reading:
    """The steps after loading."""

    def __init__(self, engine: Engine, source: Source, options: LogOptions) -> None:
        self._engine = engine
        self._source = source
        self._options = options
        self._path = source.files[0].path

    def log(self, *, item_type: DType | None, behavior_type: DType | None) -> Log:
        """From "raw" to arrays. Raises: DataError; RowError: a value of a row is not allowed."""
        parts = self._prepared(item_type, behavior_type)
        users, items, behaviors, times = parts.users, parts.items, parts.behaviors, parts.times
        events = parts.rows - sum(parts.dropped.values())
        codes = {"behavior": parts.behavior, "second": parts.second}
        found = grouped(self._engine, events=events, items=items.keys.size, **codes)
        user_keys = users.keys if users else found.users
        names = {role: name for role, name in self._source.names.items() if role != "behavior" or behaviors}
        notes = [*self._source.roles.notes, *parts.notes, *time_notes(names["time"], times, int(found.seconds.max()))]
        report = LogReport(
            files=len(self._source.files),
            format=self._source.format,
            columns=names,
            rows=parts.rows,
            dropped=parts.dropped,
            events=events,
            users=user_keys.size,
            items=items.keys.size,
            behaviors=behavior_names(behaviors.keys) if behaviors else [],
            without_behavior=int(np.sum(found.behaviors < 0)) if behaviors else 0,
            user_keys=_type_name(user_keys),
            item_keys=_type_name(items.keys),
            times=times.meaning,
            first_s=int(found.seconds.min()),
            last_s=int(found.seconds.max()),
            events_per_user=EventsPerUser.of(found.counts),
            repeats=found.repeats,
            notes=notes,
        )
        return Log(
            user_keys=user_keys,
            offsets=np.concatenate(([0], np.cumsum(found.counts))).astype(np.int64),
            item_keys=items.keys,
            item_codes=found.items,
            behavior_keys=behaviors.keys if behaviors else None,
            behavior_codes=found.behaviors,
            times=found.seconds,
            report=report,
        )

    def sorted(self, *, item_type: DType | None, behavior_type: DType | None) -> SortedLog:
        """From "raw" to users one after the other. Raises: DataError; RowError: a value of a row is not allowed."""
        parts = self._prepared(item_type, behavior_type)
        return SortedLog(
            self._engine,
            users=parts.users,
            item_keys=parts.items.keys,
            behavior_keys=parts.behaviors.keys if parts.behaviors else None,
            behavior=parts.behavior,
            second=parts.second,
            rows=parts.rows,
            dropped=parts.dropped,
            columns=dict(self._source.names),
            times=parts.times,
            notes=[*self._source.roles.notes, *parts.notes],
        )

    def _prepared(self, item_type: DType | None, behavior_type: DType | None) -> _Prepared:
        """The table "sorted"."""
        rows, dropped, times = self._checked()
        users = None if self._engine.types("raw")["user"] in INTEGERS else self._keys("user", None)
        items = self._keys("item", item_type)
        behaviors, notes = self._behaviors(behavior_type)
        self._sort(users, items, behaviors, times)
        return _Prepared(rows, dropped, times, users, items, behaviors, notes)

    def _checked(self) -> tuple[int, dict[str, int], TimeColumn]:
        """Rows, those that are dropped by reason, and how times are read; one pass over the log.

        Raises:
            DataError: no row is left.
            RowError: a time is none, or out of range.
        """
        name = self._source.names["time"]
        with naming(self._path):
            column = read_times(self._engine, name, self._engine.types("raw")["time"], self._options.time_unit)
        ordinal = f"CASE WHEN {_VALID} THEN {column.order} END"
        counts = ", ".join(f"count(*) FILTER ({condition})" for condition in _MISSING.values())
        rows, *missing, no_time, too_late, too_early = self._engine.row(
            f"SELECT count(*), {counts}, min(line) FILTER (second IS NULL AND {_VALID}), "
            f"min(line) FILTER (second > {MAX_TIME_S}), min(line) FILTER (second < 1) "
            f"FROM (SELECT *, {column.second} AS second FROM (SELECT *, {ordinal} AS ordinal FROM raw)) AS raw"
        )
        dropped = {reason: count for reason, count in zip(_MISSING, missing, strict=True) if count}
        if not rows:
            raise DataError(f"{self._path} holds no events; give a log with at least one row")
        if rows == sum(dropped.values()):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
            columns = ", ".join(f"{role} {name}" for role, name in self._source.names.items())
            raise DataError(
                f"{self._path}: none of {rows:,} rows has a user, an item and a time ({reasons}; columns: {columns}); "
                "name other columns with --columns"
            )
        for line, what in (
            (no_time, f"times here are {column.meaning}; mend or remove the row, or name the time with --time-column"),
            (
                too_late,
                f"in {column.meaning} that is after the year 5138; mend or remove the row, or give --time-unit",
            ),
            (too_early, "times begin with unix second 1; remove the row, or give --time-unit or --time-column"),
        ):
            if line is not None:
                (value,) = self._engine.row(f"SELECT time::VARCHAR FROM raw WHERE line = {line}")
                raise RowError(line, f"column {name!r} holds {value[:40]!r}; {what}")
        return rows, dropped, column

    def _keys(self, role: str, wanted: DType | None) -> CodedKeys:
        texts = not self._source.typed[role] or wanted is DType.INT64
        return coded_keys(self._engine, role, self._source.names[role], valid=_VALID, texts=texts, wanted=wanted)

    def _behaviors(self, wanted: DType | None) -> tuple[CodedKeys | None, list[str]]:
        """Keys of the behaviors; none where a column recognised by its name holds too many to be behaviors."""
        if "behavior" not in self._source.names:
            return None, []
        if "behavior" in self._source.roles.recognised:
            (count,) = self._engine.row("SELECT approx_count_distinct(behavior) FROM raw")
            if count > _MAX_RECOGNISED_BEHAVIORS:
                name = self._source.names["behavior"]
                note = f"{name} is not taken for the behavior: it holds about {count:,} values (--behavior-column)"
                return None, [note]
        return self._keys("behavior", wanted), []

    def _sort(self, users: CodedKeys | None, items: CodedKeys, behaviors: CodedKeys | None, times: TimeColumn) -> None:
        """Make the table "sorted": users, codes and times in the order of users and full-resolution times.

        Args:
            users: None where the keys are integers, which need no codes to be sorted by.
        """
        user, joins = "raw.user::BIGINT", []
        if users:
            user = "users.code"
            joins.append(f"JOIN {users.table} AS users ON raw.user = users.source")
        joins.append(f"JOIN {items.table} AS items ON raw.item = items.source")
        behavior = ""
        if behaviors:
            behavior = "coalesce(behaviors.code, -1)::INTEGER AS b, "
            joins.append(f"LEFT JOIN {behaviors.table} AS behaviors ON raw.behavior = behaviors.source")
        self._engine.run(
            f"CREATE TABLE sorted AS SELECT {user} AS u, items.code AS i, {behavior}{times.order} AS ordinal "
            f"FROM raw {' '.join(joins)} WHERE {_VALID} ORDER BY {user}, {times.order}, raw.line"
        )
        self._engine.run("DROP TABLE IF EXISTS loaded")


def _type_name(keys: Keys) -> str:
    return "int64" if keys.dtype.kind == "i" else "string"
