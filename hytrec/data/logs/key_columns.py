"""Keys of a column: which values are none, of what type the keys are, and their codes in increasing order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hytrec.contract import DType
from hytrec.data.keys import MAX_KEY_BYTES, Keys
from hytrec.data.logs.engine import Engine, identifier, literal
from hytrec.errors import DataError

__all__ = ["INTEGERS", "NULL_TEXTS", "CodedKeys", "coded_keys", "key_value", "number_value", "text_value"]

NULL_TEXTS = ("NULL", "Null", "null", "None", "NA", "N/A", "<NA>", "NaN", "nan", "\\N")
"""Texts that databases and data frames write for a missing value."""
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
"""SQL types of which every value is a key as it stands."""
_WIDE = ("UBIGINT", "HUGEINT", "UHUGEINT")
_SHOWN = 40
_MAX_BLANK = 16
"""Bytes up to which a text of blanks is taken for a missing value."""
_MAX_WHOLE = {"FLOAT": 2**24, "DOUBLE": 2**53}
"""Above, a floating-point column no longer tells neighbouring integers apart."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedKeys:
    """Different keys of a column.

    Args:
        table: with the columns "source" (a value of the log) and "code".
        value: SQL of the key that a source stands for.
    """

    engine: Engine
    table: str
    value: str

    @cached_property
    def keys(self) -> Keys:
        """(m,) int64 or 'S', increasing; the position is the code."""
        return self._fetched("")

    def keys_between(self, first: int, last: int) -> Keys:
        """(last - first + 1,) those of two codes and of all between."""
        return self._fetched(f"WHERE code BETWEEN {first} AND {last}")

    def _fetched(self, where: str) -> Keys:
        (keys,) = self.engine.arrays(f"SELECT DISTINCT {self.value} AS key FROM {self.table} {where} ORDER BY 1")
        return _as_bytes(keys) if keys.dtype.kind == "O" else keys.astype(np.int64)


def number_value(column: str) -> str:
    """SQL of a floating-point column with NULL for NaN.

    Not by isnan: DuckDB 2.0 takes it for false where a Parquet file's statistics, which leave NaN out, are finite.
    """
    return f"CASE WHEN isfinite({column}) OR isinf({column}) THEN {column} END"


def text_value(column: str) -> str:
    """SQL of a text column with NULL for missing values."""
    missing = ", ".join(map(literal, NULL_TEXTS))
    short = f"CASE WHEN trim({column}) = '' OR {column} IN ({missing}) THEN NULL ELSE {column} END"
    plain = f"strlen({column}) > {_MAX_BLANK} OR ({column} >= '0' AND {column} < ':')"  # ':' comes after '9'
    return f"CASE WHEN {plain} THEN {column} ELSE {short} END"  # long keys and numbers cost little


def key_value(column: str, kind: str, name: str) -> str:
    """SQL of a column of keys with NULL for missing values.

    Args:
        kind: the column's SQL type.
        name: of the column, for messages.

    Raises:
        DataError: the type is none of keys.
    """
    if kind == "VARCHAR":
        return text_value(column)
    if kind == "BLOB":
        return text_value(f"TRY(decode({column}))")
    if kind == "UUID" or kind.startswith("ENUM"):
        return text_value(f"{column}::VARCHAR")
    if kind in {"DOUBLE", "FLOAT"}:
        return number_value(column)
    if kind in (*INTEGERS, *_WIDE, '"NULL"') or kind.startswith("DECIMAL"):
        return column
    raise DataError(
        f"column {name!r} is of type {kind}; keys are integers or strings, convert it or name another column"
    )


def coded_keys(engine: Engine, role: str, name: str, *, valid: str, texts: bool, wanted: DType | None) -> CodedKeys:
    """Different keys of the column of a role in the view "raw", in increasing order.

    Args:
        role: "user", "item" or "behavior".
        name: of the column, for messages.
        valid: SQL of the rows that count.
        texts: whether the file has no types of its own (CSV), so that texts of plain integers are integers.
        wanted: the type that a vocabulary has; BYTES leaves such texts as they are.

    Raises:
        DataError: a key is not allowed; the message says its row.
    """
    table = f"{role}_keys"
    engine.run(
        f"CREATE TABLE {table}_distinct AS SELECT {role} AS source FROM raw "
        f"WHERE {valid} AND {role} IS NOT NULL GROUP BY 1"
    )
    kind = engine.types(f"{table}_distinct")["source"]
    value = _value(engine, role, name, kind, texts=texts and wanted is not DType.BYTES)
    engine.run(
        f"CREATE TABLE {table} AS SELECT source, (dense_rank() OVER (ORDER BY {value}) - 1)::INTEGER AS code "
        f"FROM {table}_distinct"
    )
    engine.run(f"DROP TABLE {table}_distinct")
    return CodedKeys(engine=engine, table=table, value=value)


def _as_bytes(texts: Any) -> Keys:
    encoded = [text.encode() for text in texts]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1)}")


def _value(engine: Engine, role: str, name: str, kind: str, *, texts: bool) -> str:
    """SQL of the key made of "source": a BIGINT or a VARCHAR."""
    if kind in INTEGERS:
        return "source::BIGINT"
    if kind in _WIDE:
        _refuse(
            engine,
            role,
            name,
            "TRY_CAST(source AS BIGINT) IS NULL",
            "integer keys are at most 2**63 - 1, map them to int64 or strings",
        )
        return "source::BIGINT"
    if kind == "VARCHAR":
        return _text_key(engine, role, name, may_be_integers=texts)
    fraction = "source <> trunc(source)" + (" OR isinf(source)" if kind in _MAX_WHOLE else "")
    _refuse(engine, role, name, fraction, "keys are integers or strings, convert the column or name another")
    if kind in _MAX_WHOLE:
        what = f"a column of type {kind} does not hold such integers exactly, write them as integers"
        _refuse(engine, role, name, f"abs(source) > {_MAX_WHOLE[kind]}", what)
    return "source::BIGINT"


def _text_key(engine: Engine, role: str, name: str, *, may_be_integers: bool) -> str:
    _refuse(
        engine,
        role,
        name,
        f"strlen(source) > {MAX_KEY_BYTES}",
        f"keys have at most {MAX_KEY_BYTES} bytes, shorten or hash it",
    )
    _refuse(engine, role, name, "contains(source, chr(0))", "it has a NUL byte, remove it")
    if not may_be_integers:
        return "source"
    table = f"{role}_keys_distinct"
    plain, with_zeros, numbers, digits = engine.row(
        "SELECT bool_and(coalesce(TRY_CAST(source AS BIGINT)::VARCHAR = source, false)), "
        r"bool_and(regexp_full_match(source, '-?(0|[1-9]\d{0,15})(\.0+)?') AND source NOT LIKE '-0%'), "
        "bool_and(isfinite(coalesce(TRY_CAST(source AS DOUBLE), 'inf'))), "
        rf"bool_and(regexp_full_match(source, '-?\d+')) FROM {table}"
    )
    if plain:
        return "source::BIGINT"
    if with_zeros:  # pandas writes integers so where some are missing
        return "source::DECIMAL(38, 1)::BIGINT"
    if numbers and not digits:
        what = "keys are integers or strings, convert the column or name another"
        _refuse(engine, role, name, r"NOT regexp_full_match(source, '-?\d+')", what)
    return "source"


def _refuse(engine: Engine, role: str, name: str, condition: str, what: str) -> None:
    """Raises: DataError: a key meets the condition."""
    found = engine.rows(
        f"SELECT min(line), arg_min({role}::VARCHAR, line) FROM raw WHERE {role} IN "
        f"(SELECT source FROM {identifier(role + '_keys_distinct')} WHERE {condition} LIMIT 1000)"
    )
    line, key = found[0]
    if line is not None:
        shown = repr(key if len(key) <= _SHOWN else f"{key[:_SHOWN]}...")
        raise RowError(int(line), f"column {name!r} holds {shown}; {what}")


class RowError(Exception):
    """A row of the log that cannot be read.

    Args:
        line: of the view "raw".
        what: the message without file and row.
    """

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
