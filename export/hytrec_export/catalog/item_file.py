"""Reads new items: CSV with the columns key and like, JSON lines, or a table of items as for a training."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hytrec_export.catalog.new_rows import NewItem, learned_features
from hytrec_export.catalog.watch import Catalog
from hytrec_export.errors import OptionError
from hytrec_export.settings import ServingSettings

_JSON = frozenset({".jsonl", ".json", ".ndjson"})
_FORM = 'give CSV with the columns key and like ("A,B"), or JSON lines as {"key": "C", "like": ["A", "B"]}'


def read_new_items(path: Path) -> list[NewItem]:
    """Items of a file, in order.

    Raises:
        OptionError: it cannot be read, is not of the form, or holds no item.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read ({error}); {_FORM}") from error
    rows = _json_rows(path, text) if path.suffix in _JSON else _csv_rows(path, text)
    items = [_item(path, number, *row) for number, row in rows]
    if not items:
        raise OptionError(f"{path} holds no item; {_FORM}")
    return items


def read_item_features(path: Path, repository: Path) -> tuple[list[NewItem], int]:
    """Items of a table like that of the training of a repository's model that the catalog does not know yet, in order.

    Returns:
        The items, and how many others the table has, removed ones among them.

    Raises:
        RepositoryError: the model knows no features, or a file of the repository is missing or damaged.
        VocabularyError: the repository's vocabulary is missing or damaged, or a key is not allowed.
        DataError: the table is missing or damaged, has none of the training's columns, or one of another type.
        OptionError: all of its items are in the catalog.
    """
    from hytrec.data.logs.item_table import read_item_table  # noqa: PLC0415 - duckdb

    learned, settings = learned_features(repository), ServingSettings.load(repository)
    table = read_item_table(path, key_type=settings.item_key_type, columns=learned.columns)
    vocabulary = Catalog.load(repository).vocabulary
    new = vocabulary.item_rows(table.keys) == vocabulary.unknown_row
    if not new.any():
        raise OptionError(f"all {new.size} items of {path} are in the catalog already; give a table with new ones")
    keys = [key.decode(errors="surrogateescape") if isinstance(key, bytes) else str(key) for key in table.keys.tolist()]
    items = [NewItem(key=key, features=tuple(own)) for key, own in zip(keys, table.by_item(), strict=True)]
    return [item for item, is_new in zip(items, new.tolist(), strict=True) if is_new], int(np.count_nonzero(~new))


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, tuple[Any, Any]]]:
    reader = csv.DictReader(text.splitlines())
    if not {"key", "like"} <= set(reader.fieldnames or ()):
        raise OptionError(f"{path} has the columns {', '.join(reader.fieldnames or ()) or 'none'}; {_FORM}")
    for row in reader:
        yield reader.line_num, (row["key"], [part for part in (row["like"] or "").split(",") if part])


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, tuple[Any, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield number, (row["key"], row.get("like", []))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(f"line {number} of {path} is {line[:60]!r}; {_FORM}") from error


def _item(path: Path, number: int, key: Any, like: Any) -> NewItem:
    keys = [key, *like] if isinstance(like, list) else [None]
    if not all(isinstance(one, int | str) and not isinstance(one, bool) and str(one) for one in keys):
        raise OptionError(f"line {number} of {path} has the key {key!r} and like {like!r}; {_FORM}")
    return NewItem(key=str(key), like=tuple(map(str, like)))
