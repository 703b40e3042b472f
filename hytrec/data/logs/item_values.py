"""Values of a column of a table of items, line by line.

Texts, truth values and whole numbers of few values are categories, lists and texts with "|" several of them; other
numbers and times are cut into bands of as many items each.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from hytrec.data.item_columns import ColumnKind, ItemColumn
from hytrec.data.keys import Int64Array
from hytrec.data.logs.engine import Engine, identifier, literal
from hytrec.data.logs.key_columns import INTEGERS, text_value
from hytrec.errors import DataError

__all__ = ["BANDS", "Values", "chosen_column", "told", "values_of"]

BANDS = 16
_MAX_WHOLE_CATEGORIES = 64
_NUMBERS = ("DOUBLE", "FLOAT", "HUGEINT", *INTEGERS)
_MOMENTS = ("DATE", "TIMESTAMP")
_SEPARATORS = {ColumnKind.LIST: "|", ColumnKind.WORDS: " "}
Values: TypeAlias = tuple[Int64Array, "np.ndarray[tuple[int], np.dtype[np.object_]]"]
"""Lines of the table, from 0 on, and the text that stands there; a line may come several times."""


def chosen_column(engine: Engine, name: str, kind: str) -> ItemColumn | str:
    """What a column of the table "source" becomes; or why nothing.

    Args:
        name: as in the table; RecBole adds a type, as "price:float".
        kind: its SQL type.
    """
    label = name.partition(":")[0]
    declared = name.rpartition(":")[2] if ":" in name else ""
    if kind.endswith("[]") and kind[:-2] in {"VARCHAR", *_NUMBERS}:
        return ItemColumn(name=label, kind=ColumnKind.LIST)
    if kind in {"BOOLEAN", "UUID"} or kind.startswith("ENUM"):
        return ItemColumn(name=label, kind=ColumnKind.CATEGORY)
    if kind == "VARCHAR" and declared != "float":
        text = text_value(identifier(name))
        numbers, several, whole = engine.row(
            f"SELECT count({text}) = count(TRY_CAST({text} AS DOUBLE)), "
            f"coalesce(bool_or(contains({text}, '|')), false), count({text}) FROM source"
        )
        if not whole:
            return "empty"
        if several or declared == "token_seq":
            words = declared == "token_seq"
            return ItemColumn(name=label, kind=ColumnKind.WORDS if words else ColumnKind.LIST)
        if declared == "token" or not numbers:
            return ItemColumn(name=label, kind=ColumnKind.CATEGORY)
    elif not (kind in _NUMBERS or kind.startswith(("DECIMAL", "VARCHAR", *_MOMENTS))):
        return f"left out, of type {kind}"
    times = kind.startswith(_MOMENTS)
    _, numbers = engine.arrays(_numbers(name, kind, times=times))
    different = np.unique(numbers)
    if not different.size:
        return "empty"
    if different.size <= _MAX_WHOLE_CATEGORIES and (different == np.round(different)).all():
        return ItemColumn(name=label, kind=ColumnKind.WHOLE)
    edges = np.unique(np.quantile(numbers, np.arange(1, BANDS) / BANDS))
    return ItemColumn(
        name=label, kind=ColumnKind.TIME_BANDS if times else ColumnKind.BANDS, edges=tuple(edges.tolist())
    )


def values_of(engine: Engine, name: str, kind: str, column: ItemColumn, *, shared: bool) -> Values:
    """Values of a column of the table "source".

    Args:
        shared: of categories, only those that at least two lines have.

    Raises:
        DataError: the column holds something else than the column that was chosen once.
    """
    if column.kind in {ColumnKind.BANDS, ColumnKind.TIME_BANDS}:
        lines, numbers = engine.arrays(_numbers(name, kind, times=column.kind is ColumnKind.TIME_BANDS))
        bands = np.searchsorted(np.array(column.edges), numbers, side="right")
        return lines, np.array([f"band {band}" for band in bands], dtype=object)
    pairs = f"SELECT DISTINCT line, value FROM ({_categories(name, kind, column.kind)}) WHERE trim(value) <> ''"
    several = "WHERE value IN (SELECT value FROM pairs GROUP BY value HAVING count(*) > 1)" if shared else ""
    lines, values = engine.arrays(
        f"WITH pairs AS ({pairs}) SELECT line, value FROM pairs {several} ORDER BY line, value"
    )
    return lines, values


def told(column: ItemColumn, values: Values) -> str:
    """What became of a column, in a few words."""
    different = np.unique(values[1].astype(str)).size
    if column.kind in {ColumnKind.BANDS, ColumnKind.TIME_BANDS}:
        return f"{different} bands"
    if not different:
        return "left out, no two items share a value"
    several = column.kind in _SEPARATORS
    return f"{'list' if several else 'category'} of {different:,} shared values"


def _categories(name: str, kind: str, wanted: ColumnKind) -> str:
    """SQL of lines and categories, which may be blank or come twice."""
    value = identifier(name)
    if wanted is ColumnKind.WHOLE:
        numbers = _numbers(name, kind, times=kind.startswith(_MOMENTS))
        return f"SELECT line, TRY_CAST(value AS BIGINT)::VARCHAR AS value FROM ({numbers}) WHERE value = round(value)"
    if kind.endswith("[]") and wanted in _SEPARATORS:
        return f"SELECT line, unnest({value})::VARCHAR AS value FROM source"
    if kind.endswith(("[]", ")")) and not kind.startswith(("DECIMAL", "ENUM")):
        raise _other(name, kind, wanted)
    text = text_value(value) if kind == "VARCHAR" else f"{value}::VARCHAR"
    if wanted in _SEPARATORS:
        return f"SELECT line, unnest(string_split({text}, {literal(_SEPARATORS[wanted])})) AS value FROM source"
    return f"SELECT line, trim({text}) AS value FROM source"


def _numbers(name: str, kind: str, *, times: bool) -> str:
    """SQL of lines and finite numbers."""
    column = identifier(name)
    if times and (kind == "VARCHAR" or kind.startswith(_MOMENTS)):
        value = f"epoch(TRY_CAST({column} AS TIMESTAMP))" if kind == "VARCHAR" else f"epoch({column})"
    elif not times and (kind in _NUMBERS or kind.startswith(("DECIMAL", "VARCHAR"))):
        value = f"TRY_CAST({column} AS DOUBLE)"
    else:
        raise _other(name, kind, ColumnKind.TIME_BANDS if times else ColumnKind.BANDS)
    return f"SELECT line, {value} AS value FROM source WHERE isfinite({value})"


def _other(name: str, kind: str, wanted: ColumnKind) -> DataError:
    expected: dict[ColumnKind, Any] = {ColumnKind.BANDS: "numbers", ColumnKind.TIME_BANDS: "times"}
    return DataError(
        f"column {name!r} is of type {kind}; the model was trained with {expected.get(wanted, 'categories')} there: "
        "give it as in the table of the training"
    )
