"""Read a table of items: one row an item, its key and any columns that say something about it.

Every column becomes features that items share. Texts, truth values and whole numbers of few values are categories,
lists and texts with "|" several of them; other numbers and times are cut into bands of as many items each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from hytrec.contract import DType
from hytrec.data.item_features import ItemFeatures
from hytrec.data.keys import Int64Array, Keys
from hytrec.data.logs.engine import Engine, identifier, literal, opened_engine, reading_error
from hytrec.data.logs.files import Format, decoded, found_files
from hytrec.data.logs.key_columns import INTEGERS, key_value, text_value
from hytrec.data.logs.names import well_known
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError

__all__ = ["ItemTable", "read_item_table"]

BANDS = 16
MAX_FEATURES = 4_096
"""The most common ones are kept; more would not be told apart by a training either."""
_MAX_WHOLE_CATEGORIES = 64
_NUMBERS = ("DOUBLE", "FLOAT", "HUGEINT", *INTEGERS)
_MOMENTS = ("DATE", "TIMESTAMP")


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemTable:
    """What a table says about items.

    Args:
        keys: (n,) of the items, of the log's type.
        values: pairs of a place in `keys` and a value as "genre=Action", (m,) each.
        columns: what became of every column, in a few words, by name.
    """

    path: Path | str
    keys: Keys
    places: Int64Array
    values: np.ndarray[tuple[int], np.dtype[np.object_]]
    columns: dict[str, str] = field(default_factory=dict)

    def joined(self, vocabulary: Vocabulary) -> Vocabulary:
        """The log's items and those that only this table knows, in the order of their keys."""
        keys = np.union1d(vocabulary.item_keys, self.keys)
        return Vocabulary(keys, vocabulary.behavior_keys)

    def features(self, vocabulary: Vocabulary) -> ItemFeatures:
        """Features for the rows of a vocabulary that holds all items: those that at least two items share."""
        names, ids, counts = np.unique(self.values, return_inverse=True, return_counts=True)
        common = np.argsort(-counts, kind="stable")[:MAX_FEATURES]
        kept = np.sort(common[counts[common] > 1])
        numbers = np.full(names.size, -1)
        numbers[kept] = np.arange(kept.size)
        ids = numbers[ids]
        rows = vocabulary.item_rows(self.keys)[self.places]
        there = ids >= 0
        items = len(vocabulary.item_keys)
        return ItemFeatures.of(names[kept].tolist(), rows[there], ids[there], items=items)


def read_item_table(
    path: Path | str, *, key_type: DType, item_column: str | None = None, encoding: str | None = None
) -> ItemTable:
    """Read a table of items: Parquet, separated text with a header, JSON lines, RecBole .item.

    Args:
        path: a file, a folder or a pattern.
        key_type: of the log's item keys.
        item_column: name of the key's column in the log: taken where the table has it; else one that is well known.
        encoding: of text files; UTF-8 by default.

    Raises:
        DataError: the table is missing or damaged, has no column of keys, an item twice, or nothing that items share.
    """
    with opened_engine(None) as engine:
        files = found_files([path], folder=engine.folder)
        try:
            if files[0].format is not Format.PARQUET:
                files = [decoded(file, encoding=encoding, folder=engine.folder) for file in files]
            paths = ", ".join(literal(str(file.readable)) for file in files)
            source = {
                Format.PARQUET: f"read_parquet([{paths}], union_by_name = true)",
                Format.JSON: f"read_json([{paths}], union_by_name = true)",
                Format.TEXT: f"read_csv([{paths}], header = true, all_varchar = true, sample_size = -1)",
            }[files[0].format]
            return _Reading(engine, files[0].path, source).table(key_type, item_column)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise reading_error(error, files) from error


class _Reading:
    def __init__(self, engine: Engine, path: Path | str, source: str) -> None:
        self._engine, self._path = engine, path
        engine.run(f"CREATE TABLE source AS SELECT row_number() OVER () - 1 AS line, * FROM {source}")
        self._kinds = engine.types("source")
        del self._kinds["line"]

    def table(self, key_type: DType, item_column: str | None) -> ItemTable:
        key = self._key_column(item_column)
        keys, lines = self._keys(key, key_type)
        places = np.full(int(lines.max()) + 1, -1)
        places[lines] = np.arange(lines.size)
        found: list[tuple[Int64Array, Any]] = []
        told: dict[str, str] = {}
        for name, kind in self._kinds.items():
            if name != key:
                own_lines, own_values, told[name] = self._column(name, kind)
                there = own_lines < places.size
                own_lines, own_values = own_lines[there], own_values[there]
                kept = places[own_lines] >= 0
                label = name.partition(":")[0]
                values = np.array([f"{label}={value}" for value in own_values[kept]], dtype=object)
                found.append((places[own_lines[kept]], values))
        if not any(values.size for _, values in found):
            columns = "; ".join(f"{name}: {what}" for name, what in told.items()) or "no other columns"
            raise DataError(
                f"{self._path} says nothing that items share ({columns}); give a table with a category, a price or "
                "another column that several items have in common"
            )
        return ItemTable(
            path=self._path,
            keys=keys,
            places=np.concatenate([own for own, _ in found]),
            values=np.concatenate([values for _, values in found]),
            columns=told,
        )

    def _key_column(self, item_column: str | None) -> str:
        names = list(self._kinds)
        plain = {name.partition(":")[0]: name for name in names}
        if item_column in plain:
            return plain[item_column]
        fitting = [*well_known("item", list(plain)), *(name for name in plain if name.lower() == "id")]
        if fitting:
            return plain[fitting[0]]
        wanted = f"no column {item_column!r} as the log has, and none" if item_column else "no column"
        raise DataError(
            f"{self._path} has {wanted} known to be the item ({', '.join(names)}); name it as in the log, or item_id"
        )

    def _keys(self, name: str, key_type: DType) -> tuple[Keys, Int64Array]:
        try:
            value = key_value(identifier(name), self._kinds[name], name)
        except DataError as error:
            raise DataError(f"{self._path}: {error}") from error
        wanted = "BIGINT" if key_type is DType.INT64 else "VARCHAR"
        self._engine.run(
            f"CREATE TABLE keys AS SELECT line, {value} AS source, TRY_CAST({value} AS {wanted}) AS key FROM source "
            f"WHERE {value} IS NOT NULL"
        )
        wrong = self._engine.rows("SELECT line, source::VARCHAR FROM keys WHERE key IS NULL ORDER BY line LIMIT 1")
        if wrong:
            line, text = wrong[0]
            raise DataError(
                f"{self._path}: row {line + 1}: column {name!r} holds {text[:40]!r}; the log's items are whole numbers"
            )
        twice = self._engine.rows("SELECT key::VARCHAR FROM keys GROUP BY key HAVING count(*) > 1 ORDER BY 1 LIMIT 1")
        if twice:
            raise DataError(f"{self._path}: item {twice[0][0][:40]!r} stands in several rows; give one row an item")
        lines, keys = self._engine.arrays("SELECT line, key FROM keys ORDER BY line")
        if not lines.size:
            raise DataError(f"{self._path}: column {name!r} holds no item; give a table with at least one row")
        if key_type is DType.INT64:
            return keys.astype(np.int64), lines
        encoded = [text.encode() for text in keys]
        return np.array(encoded, dtype=f"S{max(map(len, encoded))}"), lines

    def _column(self, name: str, kind: str) -> tuple[Int64Array, Any, str]:
        """Lines and values of a column, and what became of it."""
        column = identifier(name)
        declared = name.rpartition(":")[2] if ":" in name else ""
        if kind.endswith("[]") and kind[:-2] in {"VARCHAR", *_NUMBERS}:
            return self._categories(f"SELECT line, unnest({column})::VARCHAR AS value FROM source", "list")
        if kind in {"BOOLEAN", "UUID"} or kind.startswith("ENUM"):
            return self._categories(f"SELECT line, {column}::VARCHAR AS value FROM source", "category")
        if kind == "VARCHAR" and declared != "float":
            text = text_value(column)
            blank = declared == "token_seq"
            numbers, several, whole = self._engine.row(
                f"SELECT count({text}) = count(TRY_CAST({text} AS DOUBLE)), "
                f"coalesce(bool_or(contains({text}, '|')), false), count({text}) FROM source"
            )
            if not whole:
                return _nothing("empty")
            if several or blank:
                split = f"unnest(string_split({text}, {literal(' ' if blank else '|')}))"
                return self._categories(f"SELECT line, {split} AS value FROM source", "list")
            if declared == "token" or not numbers:
                return self._categories(f"SELECT line, trim({text}) AS value FROM source", "category")
        elif not (kind in _NUMBERS or kind.startswith(("DECIMAL", "VARCHAR", *_MOMENTS))):
            return _nothing(f"left out, of type {kind}")
        value = f"epoch({column})" if kind.startswith(_MOMENTS) else f"TRY_CAST({column} AS DOUBLE)"
        return self._numbers(value)

    def _numbers(self, value: str) -> tuple[Int64Array, Any, str]:
        """Whole numbers of few values are categories; others fall into bands of as many items each."""
        query = f"SELECT line, {value} AS value FROM source WHERE isfinite({value})"
        lines, numbers = self._engine.arrays(query)
        different = np.unique(numbers)
        if not different.size:
            return _nothing("empty")
        if different.size <= _MAX_WHOLE_CATEGORIES and (different == np.round(different)).all():
            return self._categories(f"SELECT line, value::BIGINT::VARCHAR AS value FROM ({query})", "category")
        edges = np.unique(np.quantile(numbers, np.arange(1, BANDS) / BANDS))
        bands = np.searchsorted(edges, numbers, side="right")
        return lines, np.array([f"band {band}" for band in bands], dtype=object), f"{np.unique(bands).size} bands"

    def _categories(self, query: str, what: str) -> tuple[Int64Array, Any, str]:
        """Values that at least two items share."""
        shared = (
            f"WITH pairs AS (SELECT DISTINCT line, value FROM ({query}) WHERE trim(value) <> '') "
            "SELECT line, value FROM pairs "
            "WHERE value IN (SELECT value FROM pairs GROUP BY value HAVING count(*) > 1) ORDER BY line, value"
        )
        lines, values = self._engine.arrays(shared)
        if not lines.size:
            return _nothing("left out, no two items share a value")
        return lines, values, f"{what} of {np.unique(values.astype(str)).size:,} shared values"


def _nothing(what: str) -> tuple[Int64Array, Any, str]:
    return np.empty(0, np.int64), np.empty(0, dtype=object), what
