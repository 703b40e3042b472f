"""Event logs from files: Parquet, CSV, RecBole .inter. Needs pyarrow; the way in is `histories.read_histories`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from hytrec.contract import DType
from hytrec.data.keys import Int64Array, Keys, checked_keys
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError, VocabularyError
from hytrec.signature import MAX_TIME_S

__all__ = ["DEFAULT_BEHAVIOR", "Columns", "KeyColumn", "Log", "read_log"]

DEFAULT_BEHAVIOR = "behavior"
_DELIMITERS = {".csv": ",", ".inter": "\t"}
_SUFFIXES = (".parquet", *_DELIMITERS)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of a log; `behavior` None takes the column "behavior" if there is one."""

    user: str
    item: str
    time: str
    behavior: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyColumn:
    """A column of keys.

    Args:
        keys: (m,) its different keys, in any order.
        codes: (n,) int64 position of every event's key in `keys`, -1 where the value is null.
    """

    keys: Keys
    codes: Int64Array

    def spread(self, rows: Int64Array) -> Int64Array:
        """(n,) row of every event from the (m,) rows of the keys; 0 where the value is null."""
        return np.append(rows, 0)[self.codes]


@dataclass(frozen=True, kw_only=True, eq=False)
class Log:
    """Columns of a log in the order of the file: `times` (n,) int64 unix seconds."""

    users: KeyColumn
    items: KeyColumn
    behaviors: KeyColumn | None
    times: Int64Array


def read_log(path: Path, *, columns: Columns, vocabulary: Vocabulary | None = None) -> Log:
    """Read a log file.

    Args:
        vocabulary: says of what type the keys of a text file are; None takes int64 where every key is a plain integer.

    Raises:
        DataError: the file is missing or damaged, a column is missing, there are no events, or a value is null or not
            allowed.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of an event log ({', '.join(_SUFFIXES)})")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"{path} ends in {suffix or 'no extension'!r}; event logs are {', '.join(_SUFFIXES)}")
    try:
        table = _table(path, columns, suffix) if path.stat().st_size else None
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({_first_line(error)}); check that it is whole") from error
    if table is None or not table.num_rows:
        raise DataError(f"{path} holds no events; give a log with at least one row")
    texts_as = (vocabulary.item_key_type, vocabulary.behavior_key_type) if vocabulary else (None, None)
    behavior = _behavior_name(columns, table.column_names)
    return Log(
        users=_keys(path, table, columns.user, name="user"),
        items=_keys(path, table, columns.item, name="item", text_as=texts_as[0]),
        behaviors=_keys(path, table, behavior, name="behavior", text_as=texts_as[1]) if behavior else None,
        times=_times(path, table, columns.time),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _behavior_name(columns: Columns, names: list[str]) -> str | None:
    return columns.behavior or (DEFAULT_BEHAVIOR if DEFAULT_BEHAVIOR in names else None)


def _wanted(path: Path, columns: Columns, names: list[str]) -> list[str]:
    """Names of the columns to read.

    Raises:
        DataError: a column is missing or stands twice.
    """
    behavior = _behavior_name(columns, names)
    wanted = [columns.user, columns.item, columns.time, *([behavior] if behavior else [])]
    for name in wanted:
        if name not in names:
            raise DataError(
                f"{path} has no column {name!r}; it has {', '.join(names) or 'none'}; name the column to use"
            )
        if names.count(name) > 1:
            raise DataError(f"{path} has {names.count(name)} columns {name!r}; rename all but one")
    return list(dict.fromkeys(wanted))


def _table(path: Path, columns: Columns, suffix: str) -> pa.Table:
    if suffix in _DELIMITERS:
        return _text(path, columns, _DELIMITERS[suffix])
    with pa.parquet.ParquetFile(path) as file:
        return file.read(columns=_wanted(path, columns, file.schema_arrow.names))


def _text(path: Path, columns: Columns, delimiter: str) -> pa.Table:
    """Columns of a CSV or .inter file, all as strings: a type guessed from the first block may not hold to the end."""
    recbole = delimiter == "\t"
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader([file.readline().rstrip("\r\n")], delimiter=delimiter))
    names = [name.partition(":")[0] for name in header] if recbole else header
    wanted = _wanted(path, columns, names)
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, quote_char=False if recbole else '"'),
        convert_options=pa.csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict.fromkeys(wanted, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _plain(path: Path, table: pa.Table, column: str, *, nulls_allowed: bool = False) -> pa.Array:
    """One column in one piece, dictionaries and NaN resolved.

    Raises:
        DataError: it holds nulls.
    """
    values = table[column].combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    missing = pc.is_null(values, nan_is_null=True)
    count = pc.sum(missing).as_py()
    if count and not nulls_allowed:
        first = pc.index(missing, True).as_py() + 1
        raise DataError(f"{path}: column {column!r} is empty in {count} rows (the first is row {first}); drop them")
    return values


def _keys(path: Path, table: pa.Table, column: str, *, name: str, text_as: DType | None = None) -> KeyColumn:
    values = _plain(path, table, column, nulls_allowed=name == "behavior")
    kind = values.type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (texts or pa.types.is_integer(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(
            f"{path}: column {column!r} is of type {kind}; keys are integers or strings, convert the column first"
        )
    encoded = values.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    different = encoded.dictionary
    if texts and path.suffix.lower() in _DELIMITERS and text_as is not DType.BYTES:
        different = _integers_if_plain(path, different, column)
    keys = different.to_numpy(zero_copy_only=False) if pa.types.is_integer(different.type) else different.to_pylist()
    try:
        return KeyColumn(keys=checked_keys(keys, name=name), codes=codes)
    except VocabularyError as error:
        raise DataError(f"{path}: {error}") from error


def _integers_if_plain(path: Path, texts: pa.Array, column: str) -> pa.Array:
    """Different keys of a text file as int64 when all are plain integers, else as they are ("007" stays a string).

    Raises:
        DataError: all are numbers, but some are not integers.
    """
    try:
        integers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        digits = pc.all(pc.match_substring_regex(texts, r"^-?[0-9]+$")).as_py()
        if digits is False and _is_castable(texts, pa.float64()):
            point = next(text for text in texts.to_pylist() if not text.lstrip("-").isdigit())
            raise DataError(
                f"{path}: column {column!r} holds {point}; keys are integers or strings, convert the column first"
            ) from None
        return texts
    return integers if integers.cast(pa.string()).equals(texts) else texts


def _is_castable(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _times(path: Path, table: pa.Table, column: str) -> Int64Array:
    """(n,) int64 unix seconds; fractions are cut.

    Raises:
        DataError: a time is no number, under 1, or so large that it must be milliseconds.
    """
    values = _plain(path, table, column)
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        values = values.cast(pa.timestamp("s", tz=getattr(kind, "tz", None)), safe=False).cast(pa.int64())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = _numbers(path, values, column)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(
            f"{path}: column {column!r} is of type {kind}; times are unix seconds, convert the column first"
        )
    times = values.to_numpy(zero_copy_only=False)
    too_large = np.flatnonzero(times > MAX_TIME_S)
    if too_large.size:
        raise DataError(
            f"{path}: column {column!r} holds {times[too_large[0]]} in row {too_large[0] + 1}, which looks like "
            f"milliseconds; times are unix seconds up to {MAX_TIME_S}, divide by 1000"
        )
    too_small = np.flatnonzero(~(times >= 1))
    if too_small.size:
        raise DataError(
            f"{path}: column {column!r} holds {times[too_small[0]]} in row {too_small[0] + 1}; times are unix seconds "
            "from 1 on, drop the row or shift the times"
        )
    seconds: Int64Array = np.floor(times).astype(np.int64)
    return seconds


def _numbers(path: Path, texts: pa.Array, column: str) -> pa.Array:
    for kind in (pa.int64(), pa.float64()):
        if _is_castable(texts, kind):
            return texts.cast(kind)
    place, text = next((i, t) for i, t in enumerate(texts) if not _is_castable(pa.array([t.as_py()]), pa.float64()))
    raise DataError(
        f"{path}: column {column!r} holds {text.as_py()[:40]!r} in row {place + 1}; times are unix seconds, "
        "convert the column first"
    )
