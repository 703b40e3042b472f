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
from hytrec.data.item_columns import ColumnKind, ItemColumn
from hytrec.data.item_features import ItemFeatures
from hytrec.data.keys import Int64Array, Keys
from hytrec.data.logs.engine import Engine, identifier, literal, opened_engine, reading_error
from hytrec.data.logs.files import Format, decoded, found_files
from hytrec.data.logs.item_values import Values, chosen_column, told, values_of
from hytrec.data.logs.key_columns import key_value
from hytrec.data.logs.names import well_known
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError

__all__ = ["ItemTable", "read_item_table"]

MAX_FEATURES = 4_096
"""The most common ones are kept; more would not be told apart by a training either."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemTable:
    """What a table says about items.

    Args:
        keys: (n,) of the items, of the log's type.
        values: pairs of a place in `keys` and a value as "genre=Action", (m,) each.
        columns: what became of every column, in a few words, by name.
        used: columns that became features, and the keys'.
    """

    path: Path | str
    keys: Keys
    places: Int64Array
    values: np.ndarray[tuple[int], np.dtype[np.object_]]
    columns: dict[str, str] = field(default_factory=dict)
    used: tuple[ItemColumn, ...] = ()

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
        return ItemFeatures.of(names[kept].tolist(), rows[there], ids[there], items=items, columns=self.used)

    def by_item(self) -> list[list[str]]:
        """The values of every item, in the order of `keys`."""
        found: list[list[str]] = [[] for _ in range(len(self.keys))]
        for place, value in zip(self.places.tolist(), self.values.tolist(), strict=True):
            found[place].append(value)
        return found


def read_item_table(
    path: Path | str,
    *,
    key_type: DType,
    item_column: str | None = None,
    encoding: str | None = None,
    columns: tuple[ItemColumn, ...] | None = None,
) -> ItemTable:
    """Read a table of items: Parquet, separated text with a header, JSON lines, RecBole .item.

    Args:
        path: a file, a folder or a pattern.
        key_type: of the log's item keys.
        item_column: name of the key's column in the log: taken where the table has it; else one that is well known.
        encoding: of text files; UTF-8 by default.
        columns: of the table of a training, for items that come after it: read as those were, and whatever one item has
            is kept. What columns become features is found out by default.

    Raises:
        DataError: the table is missing or damaged, has no column of keys, an item twice, nothing that items share, or
            none of `columns`, or one as something else.
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
            item_column = next((own.name for own in columns or () if own.kind is ColumnKind.KEY), item_column)
            return _Reading(engine, files[0].path, source).table(key_type, item_column, columns)
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

    def table(self, key_type: DType, item_column: str | None, columns: tuple[ItemColumn, ...] | None) -> ItemTable:
        key = self._key_column(item_column)
        keys, lines = self._keys(key, key_type)
        places = np.full(int(lines.max()) + 1, -1)
        places[lines] = np.arange(lines.size)
        others = {name: kind for name, kind in self._kinds.items() if name != key}
        found, words = self._shared(others) if columns is None else self._known(others, columns)
        own: list[tuple[Int64Array, Any]] = []
        for column, (own_lines, values) in found:
            kept = np.isin(own_lines, lines)
            labelled = np.array([f"{column.name}={value}" for value in values[kept]], dtype=object)
            own.append((places[own_lines[kept]], labelled))
        if columns is None and not any(values.size for _, values in own):
            said = "; ".join(f"{name}: {what}" for name, what in words.items()) or "no other columns"
            raise DataError(
                f"{self._path} says nothing that items share ({said}); give a table with a category, a price or "
                "another column that several items have in common"
            )
        return ItemTable(
            path=self._path,
            keys=keys,
            places=np.concatenate([places for places, _ in own]),
            values=np.concatenate([values for _, values in own]),
            columns=words,
            used=(
                ItemColumn(name=key.partition(":")[0], kind=ColumnKind.KEY),
                *(column for column, _ in found),
            ),
        )

    def _shared(self, names: dict[str, str]) -> tuple[list[tuple[ItemColumn, Values]], dict[str, str]]:
        """Values that items share, by column; and what became of every column, in a few words."""
        found: list[tuple[ItemColumn, Values]] = []
        words: dict[str, str] = {}
        for name, kind in names.items():
            column = chosen_column(self._engine, name, kind)
            if isinstance(column, str):
                words[name] = column
                continue
            values = values_of(self._engine, name, kind, column, shared=True)
            words[name] = told(column, values)
            if values[0].size:
                found.append((column, values))
        return found, words

    def _known(
        self, names: dict[str, str], columns: tuple[ItemColumn, ...]
    ) -> tuple[list[tuple[ItemColumn, Values]], dict[str, str]]:
        """All values of columns that a training knew."""
        plain = {name.partition(":")[0]: name for name in names}
        columns = tuple(column for column in columns if column.kind is not ColumnKind.KEY)
        found = []
        for column in columns:
            if column.name in plain:
                name = plain[column.name]
                try:
                    values = values_of(self._engine, name, names[name], column, shared=False)
                except DataError as error:
                    raise DataError(f"{self._path}: {error}") from error
                found.append((column, values))
        if not found:
            raise DataError(
                f"{self._path} has the columns {', '.join(names) or 'none'} beside the items; the model was trained "
                f"with {', '.join(column.name for column in columns)}: name them so"
            )
        return found, {plain[column.name]: told(column, values) for column, values in found}

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
