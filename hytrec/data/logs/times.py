"""Times of a log in SQL: numbers of any unit, ISO 8601 texts and timestamps become seconds and nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

from hytrec.data.logs.engine import Engine
from hytrec.data.logs.options import TimeUnit
from hytrec.errors import DataError
from hytrec.signature import MAX_TIME_S

__all__ = ["TimeColumn", "read_times"]

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_CALENDAR = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP WITH TIME ZONE")
_SAMPLE = 1000
_MANY = 1_000_000
_NOT_BEFORE = 31_536_000
"""1971: a whole log before it is hardly one of times."""


@dataclass(frozen=True, kw_only=True)
class TimeColumn:
    """How a time column is read.

    Args:
        second: SQL of its whole unix seconds; NULL where a value is no time.
        order: SQL of one number that grows with the time in full resolution: sorting by it takes less than half of the
            time that seconds and what is within them do.
        meaning: what its values are, in a few words.
        unit: of numbers; None for calendar times.
    """

    second: str
    order: str
    meaning: str
    unit: TimeUnit | None


def read_times(engine: Engine, name: str, kind: str, unit: TimeUnit | None) -> TimeColumn:
    """How the column "time" of the view "raw" is read.

    Args:
        name: the column's name, for messages.
        kind: its SQL type.
        unit: what the user says; None finds it by the size of the numbers.

    Raises:
        DataError: the type is none of times, or a unit is given for calendar times.
    """
    if kind == "TIMESTAMP_NS":
        return _calendar("epoch_ns(time) // 1000000000", "epoch_ns(time)", "timestamps", name, unit)
    if kind in _CALENDAR:
        value = "epoch_us(time)" if kind != "DATE" else "epoch_us(time::TIMESTAMP)"
        meaning = "dates" if kind == "DATE" else "timestamps"
        return _calendar(f"{value} // 1000000", value, meaning, name, unit)
    if kind == "VARCHAR":
        return _from_texts(engine, name, unit)
    if kind in _INTEGERS:
        return _from_numbers(engine, "time::HUGEINT" if kind in {"HUGEINT", "UBIGINT"} else "time::BIGINT", unit)
    if kind in {"DOUBLE", "FLOAT"} or kind.startswith("DECIMAL"):
        return _from_numbers(engine, "time::DOUBLE", unit)
    raise DataError(
        f"column {name!r} is of type {kind}; times are numbers, ISO 8601 texts or timestamps, name the column with "
        "--time-column"
    )


def _calendar(second: str, order: str, meaning: str, name: str, unit: TimeUnit | None) -> TimeColumn:
    if unit is not None:
        raise DataError(f"column {name!r} holds {meaning}, which have no unit; leave --time-unit out")
    return TimeColumn(second=second, order=order, meaning=meaning, unit=None)


def _from_numbers(engine: Engine, value: str, unit: TimeUnit | None) -> TimeColumn:
    unit = unit or _found_unit(engine, value)
    second = f"{value} // {unit.per_second}"
    if value.endswith("::DOUBLE"):
        second = f"floor({value} / {unit.per_second})::HUGEINT"
        second = f"CASE WHEN isfinite({value}) AND abs({value}) < 1e30 THEN {second} END"
    return TimeColumn(second=second, order=value, meaning=unit.word, unit=unit)


def _found_unit(engine: Engine, value: str) -> TimeUnit:
    """By the size of the middle one: seconds reach 10^11 in the year 5138, milliseconds do in 1973."""
    (middle,) = engine.row(
        f"SELECT approx_quantile(({value})::DOUBLE, 0.5) "
        f"FROM (SELECT time FROM raw WHERE time IS NOT NULL LIMIT {_MANY})"
    )
    for unit in TimeUnit:
        if middle is None or middle <= MAX_TIME_S * unit.per_second:
            return unit
    return TimeUnit.NANOSECONDS


def _from_texts(engine: Engine, name: str, unit: TimeUnit | None) -> TimeColumn:
    """Numbers or ISO 8601, by the first rows; a text of the other kind is refused later, with its row."""
    calendar, numbers = engine.row(
        "SELECT count(*) FILTER (TRY_CAST(time AS DOUBLE) IS NULL AND TRY_CAST(time AS TIMESTAMPTZ) IS NOT NULL), "
        "count(*) FILTER (TRY_CAST(time AS DOUBLE) IS NOT NULL) "
        f"FROM (SELECT time FROM raw WHERE time IS NOT NULL LIMIT {_SAMPLE})"
    )
    if calendar > numbers:
        (zoneless,) = engine.row(
            r"SELECT count(*) FROM (SELECT time FROM raw WHERE time IS NOT NULL LIMIT 1000) "
            r"WHERE NOT regexp_matches(time, ':.*(Z|[+-]\d\d:?(\d\d)?| ?[A-Za-z]+(/[A-Za-z_]+)?)$')"
        )
        value = "TRY_CAST(time AS TIMESTAMPTZ)"
        below_us = r"rpad(substr(regexp_extract(time, '\.(\d+)', 1), 7), 3, '0')::BIGINT"
        below_us = rf"CASE WHEN regexp_matches(time, '\.\d{{7}}') THEN {below_us} ELSE 0 END"
        meaning = "ISO 8601, those without a zone taken for UTC" if zoneless else "ISO 8601 with zones"
        order = f"epoch_us({value})::HUGEINT * 1000 + {below_us}"
        return _calendar(f"epoch_us({value}) // 1000000", order, meaning, name, unit)
    number = "TRY_CAST(time AS DOUBLE)"
    unit = unit or _found_unit(engine, number)
    whole = r"regexp_full_match(time, '\d{1,19}')"
    exact = "TRY_CAST(time AS BIGINT)"
    other = _from_numbers(engine, f"({number})::DOUBLE", unit)
    return TimeColumn(
        second=f"CASE WHEN {whole} THEN {exact} // {unit.per_second} ELSE {other.second} END",
        order=f"CASE WHEN {whole} THEN {exact}::HUGEINT * 1000000000 ELSE ({other.order} * 1e9)::HUGEINT END",
        meaning=unit.word,
        unit=unit,
    )


def time_notes(name: str, column: TimeColumn, latest: int) -> list[str]:
    """What a user should hear about times that hardly are."""
    if column.unit is None or latest >= _NOT_BEFORE:
        return []
    options = "--time-column or --time-unit"
    return [f"all times lie before 1971: is {name!r} the time, in {column.unit.word}? if not, give {options}"]
