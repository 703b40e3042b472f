"""Times of a log in SQL: numbers of any unit, ISO 8601 texts and timestamps become seconds and nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

from hytrec.data.logs.engine import Engine
from hytrec.data.logs.key_columns import INTEGERS
from hytrec.data.logs.options import TimeUnit
from hytrec.errors import DataError
from hytrec.signature import MAX_TIME_S

__all__ = ["TimeColumn", "read_times"]

_INTEGERS = (*INTEGERS, "HUGEINT", "UBIGINT", '"NULL"')
_CALENDAR = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP WITH TIME ZONE")
_SAMPLE = 1000
_MANY = 100_000
_LARGEST = "1e28"
"""Above, a floating-point number times 10^9 is no HUGEINT."""
_NOT_BEFORE = 31_536_000
"""1971: a whole log before it is hardly one of times."""


@dataclass(frozen=True, kw_only=True)
class TimeColumn:
    """How a time column is read.

    Args:
        order: SQL of one number that grows with the time in full resolution, NULL where a value is no time: sorting by
            it takes less than half of the time that seconds and what is within them do.
        second: SQL of the whole unix seconds of a column "ordinal" that holds `order`.
        meaning: what its values are, in a few words.
        unit: of numbers; None for calendar times.
    """

    order: str
    second: str
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
        return _calendar("epoch_ns(time)", "ordinal // 1000000000", "timestamps", name, unit)
    if kind in _CALENDAR:
        value = "epoch_us(time)" if kind != "DATE" else "epoch_us(time::TIMESTAMP)"
        meaning = "dates" if kind == "DATE" else "timestamps"
        return _calendar(value, "ordinal // 1000000", meaning, name, unit)
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


def _calendar(order: str, second: str, meaning: str, name: str, unit: TimeUnit | None) -> TimeColumn:
    if unit is not None:
        raise DataError(f"column {name!r} holds {meaning}, which have no unit; leave --time-unit out")
    return TimeColumn(order=order, second=second, meaning=meaning, unit=None)


def _from_numbers(engine: Engine, value: str, unit: TimeUnit | None) -> TimeColumn:
    unit = unit or _found_unit(engine, value)
    if not value.endswith("::DOUBLE"):
        return TimeColumn(order=value, second=f"ordinal // {unit.per_second}", meaning=unit.word, unit=unit)
    order = f"CASE WHEN isfinite({value}) AND abs({value}) < {_LARGEST} THEN {value} END"
    second = f"floor(ordinal / {unit.per_second})::HUGEINT"
    return TimeColumn(order=order, second=second, meaning=unit.word, unit=unit)


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
        return _calendar(order, "ordinal // 1000000000", meaning, name, unit)
    number = "TRY_CAST(time AS DOUBLE)"
    unit = unit or _found_unit(engine, number)
    exact = "TRY_CAST(time AS BIGINT)"
    (fractions,) = engine.row(
        "SELECT bool_or(CASE WHEN contains(time, '.') OR contains(time, 'e') OR contains(time, 'E') "
        f"THEN {number} IS NOT NULL ELSE false END) FROM raw"
    )
    if not fractions:  # BIGINT takes a third of the time of HUGEINT
        return _from_numbers(engine, exact, unit)
    whole = r"regexp_full_match(time, '\d{1,19}')"
    other = f"CASE WHEN isfinite({number}) AND abs({number}) < {_LARGEST} THEN ({number} * 1e9)::HUGEINT END"
    return TimeColumn(
        order=f"CASE WHEN {whole} THEN {exact}::HUGEINT * 1000000000 ELSE {other} END",
        second=f"ordinal // 1000000000 // {unit.per_second}",
        meaning=unit.word,
        unit=unit,
    )


def time_notes(name: str, column: TimeColumn, latest: int) -> list[str]:
    """What a user should hear about times that hardly are."""
    if column.unit is None or latest >= _NOT_BEFORE:
        return []
    options = "--time-column or --time-unit"
    return [f"all times lie before 1971: is {name!r} the time, in {column.unit.word}? if not, give {options}"]
