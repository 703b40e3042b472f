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
_NOT_BEFORE = 31_536_000
"""1971: a whole log before it is hardly one of times."""


@dataclass(frozen=True, kw_only=True)
class TimeColumn:
    """How a time column is read.

    Args:
        second: SQL of its whole unix seconds; NULL where a value is no time.
        nano: SQL of the nanoseconds within the second.
        meaning: what its values are, in a few words.
        unit: of numbers; None for calendar times.
    """

    second: str
    nano: str
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
        return _calendar("epoch_ns(time) // 1000000000", "epoch_ns(time) % 1000000000", "timestamps", name, unit)
    if kind in _CALENDAR:
        value = "epoch_us(time)" if kind != "DATE" else "epoch_us(time::TIMESTAMP)"
        meaning = "dates" if kind == "DATE" else "timestamps"
        return _calendar(f"{value} // 1000000", f"({value} % 1000000) * 1000", meaning, name, unit)
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


def _calendar(second: str, nano: str, meaning: str, name: str, unit: TimeUnit | None) -> TimeColumn:
    if unit is not None:
        raise DataError(f"column {name!r} holds {meaning}, which have no unit; leave --time-unit out")
    return TimeColumn(second=second, nano=nano, meaning=meaning, unit=None)


def _from_numbers(engine: Engine, value: str, unit: TimeUnit | None) -> TimeColumn:
    unit = unit or _found_unit(engine, value)
    per_second, nanos = unit.per_second, 10**9 // unit.per_second
    if value.endswith("::DOUBLE"):
        second = f"CASE WHEN isfinite({value}) AND abs({value}) < 1e30 THEN floor({value} / {per_second})::HUGEINT END"
        nano = f"greatest(0, ({value} - floor({value} / {per_second}) * {per_second}) * {nanos})::BIGINT"
    else:
        second, nano = f"{value} // {per_second}", f"({value} % {per_second}) * {nanos}"
    return TimeColumn(second=second, nano=nano, meaning=unit.word, unit=unit)


def _found_unit(engine: Engine, value: str) -> TimeUnit:
    """By the size of the middle one: seconds reach 10^11 in the year 5138, milliseconds do in 1973."""
    (middle,) = engine.row(f"SELECT approx_quantile(({value})::DOUBLE, 0.5) FROM raw WHERE time IS NOT NULL")
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
        within = f"(epoch_us({value}) % 1000000) * 1000"
        nano = rf"{within} + CASE WHEN regexp_matches(time, '\.\d{{7}}') THEN {below_us} ELSE 0 END"
        meaning = "ISO 8601, those without a zone taken for UTC" if zoneless else "ISO 8601 with zones"
        return _calendar(f"epoch_us({value}) // 1000000", nano, meaning, name, unit)
    number = "TRY_CAST(time AS DOUBLE)"
    unit = unit or _found_unit(engine, number)
    per_second, nanos = unit.per_second, 10**9 // unit.per_second
    whole = r"regexp_full_match(time, '\d{1,19}')"
    exact = "TRY_CAST(time AS BIGINT)"
    other = _from_numbers(engine, f"({number})::DOUBLE", unit)
    return TimeColumn(
        second=f"CASE WHEN {whole} THEN {exact} // {per_second} ELSE {other.second} END",
        nano=f"CASE WHEN {whole} THEN ({exact} % {per_second}) * {nanos} ELSE {other.nano} END",
        meaning=unit.word,
        unit=unit,
    )


def time_notes(name: str, column: TimeColumn, latest: int) -> list[str]:
    """What a user should hear about times that hardly are."""
    if column.unit is None or latest >= _NOT_BEFORE:
        return []
    options = "--time-column or --time-unit"
    return [f"all times lie before 1971: is {name!r} the time, in {column.unit.word}? if not, give {options}"]
