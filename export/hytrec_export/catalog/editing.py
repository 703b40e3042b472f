"""Adds items to the catalog of a built repository, and takes items out; servers that run take it over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hytrec.contract import DType
from hytrec.data.keys import AnyKeys, checked_keys
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import GRAPHS
from hytrec_export.catalog.changes import CatalogChanges, exclusive
from hytrec_export.catalog.new_rows import NewItem, NewRow, learned_features
from hytrec_export.catalog.tables import LiveTables
from hytrec_export.errors import OptionError, RepositoryError
from hytrec_export.item_lists import integer_key
from hytrec_export.options import Target
from hytrec_export.repository.manifest import Manifest
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings

ItemKey = int | bytes


@dataclass(frozen=True, kw_only=True)
class CatalogSummary:
    """The state of a catalog.

    Args:
        version: changes since the build.
        items: of the build. added: since, removed ones among them.
        removed: that are not recommended.
        free: reserved rows that are left.
    """

    version: int
    items: int
    added: int
    removed: int
    free: int


@dataclass(frozen=True, kw_only=True)
class _Opened:
    settings: ServingSettings
    vocabulary: Vocabulary
    changes: CatalogChanges

    @classmethod
    def of(cls, repository: Path) -> _Opened:
        """Raises: RepositoryError, VocabularyError: a file is missing or damaged."""
        settings = ServingSettings.load(repository)
        changes = CatalogChanges.load(repository, settings)
        vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
        return cls(
            settings=settings,
            vocabulary=vocabulary.extended(changes.keys, rows=settings.item_rows),
            changes=changes,
        )

    def row(self, key: ItemKey) -> int | None:
        """None for a key that is not known."""
        row = int(self.vocabulary.item_rows(_keys([key]))[0])
        return row if row <= self.vocabulary.last_item_row else None

    def summary(self) -> CatalogSummary:
        settings, changes = self.settings, self.changes
        return CatalogSummary(
            version=changes.version,
            items=settings.items,
            added=len(changes),
            removed=len(changes.removed),
            free=settings.reserved - len(changes),
        )


def list_items(repository: Path) -> tuple[CatalogSummary, list[tuple[str, str]]]:
    """The catalog's state, and every key that was added or removed with what it is.

    Raises:
        RepositoryError, VocabularyError: a file is missing or damaged.
    """
    opened = _Opened.of(repository)
    removed = set(opened.changes.removed.tolist())
    first = opened.settings.items + 1
    rows = sorted(removed | set(range(first, first + len(opened.changes))))
    keys = opened.vocabulary.keys_of(np.array(rows, np.int64)).tolist() if rows else []
    return opened.summary(), [
        (_shown(key), ("added" if row >= first else "built") + (", removed" if row in removed else ""))
        for key, row in zip(keys, rows, strict=True)
    ]


def add_items(repository: Path, items: Sequence[NewItem]) -> CatalogSummary:
    """Give items rows (`new_rows`), all of them or none; or bring removed ones back with their own.

    Raises:
        OptionError: a key is of the wrong type, known already, given twice, like none or an unknown item, or has no
            feature that the model knows; there are too few free rows.
        RepositoryError: the repository reserved no rows, knows no features, or a file is missing, damaged or cannot be
            written.
        VocabularyError: a key is not allowed.
    """
    with exclusive(repository):
        opened = _changeable(repository)
        learned = learned_features(repository) if any(item.features for item in items) else None
        tables = LiveTables(repository, opened.settings, models=[model.name for model in GRAPHS])
        tables.apply(CatalogChanges.none(opened.settings), opened.changes)
        keys = [_key(item.key, opened.settings) for item in items]
        if len(set(keys)) < len(keys):
            twice = next(key for place, key in enumerate(keys) if key in keys[:place])
            raise OptionError(f"key {_shown(twice)} is given twice; give every item once")
        removed = set(opened.changes.removed.tolist())
        new: list[tuple[ItemKey, NewRow]] = []
        for key, item in zip(keys, items, strict=True):
            row = opened.row(key)
            if row is None:
                if item.like or learned is None:
                    new.append((key, NewRow.like(_like(item, opened), tables)))
                else:
                    new.append((key, NewRow.of_features(item, learned, tables)))
            elif row not in removed:
                raise OptionError(f"key {item.key} is in the catalog already; give the key of a new item")
            elif item.like:
                raise OptionError(
                    f"key {item.key} was removed and keeps the row that it had; bring it back without --like"
                )
            removed.discard(row or 0)
        free = opened.summary().free
        if len(new) > free:
            raise OptionError(
                f"{len(new)} new items are given and {free} of {opened.settings.reserved} reserved rows are free; "
                "train and build again, or build with a larger --reserve-items"
            )
        return _save(repository, opened, _with(opened.changes, new), removed)


def remove_items(repository: Path, keys: Sequence[str]) -> CatalogSummary:
    """Have items recommended no more, all of them or none. They keep their rows: histories are read as before.

    Raises:
        OptionError: a key is of the wrong type, unknown, removed already or given twice.
        RepositoryError: the repository reserved no rows, or a file is missing, damaged or cannot be written.
        VocabularyError: a key is not allowed.
    """
    with exclusive(repository):
        opened = _changeable(repository)
        removed = set(opened.changes.removed.tolist())
        for text in keys:
            row = opened.row(_key(text, opened.settings))
            if row is None:
                raise OptionError(f"key {text} is not in the catalog; give the key of an item that is")
            if row in removed:
                raise OptionError(f"key {text} is removed already; see: hytrec-export items list {repository}")
            removed.add(row)
        return _save(repository, opened, opened.changes, removed)


def _changeable(repository: Path) -> _Opened:
    """Raises: RepositoryError: the repository's catalog cannot be changed."""
    opened = _Opened.of(repository)
    if opened.settings.reserved:
        return opened
    target = Manifest.load(repository).options.get("target")
    if target == Target.EMBEDDED:
        raise RepositoryError(
            f"{repository} has no reserved rows, so its catalog cannot change; build it with --reserve-items"
        )
    raise RepositoryError(
        f"{repository} is built for target {target}, whose tables cannot change while it serves; train and build again "
        f"for new items, or build for target {Target.EMBEDDED.value}; --eligible lists leave items out"
    )


def _save(repository: Path, opened: _Opened, changes: CatalogChanges, removed: set[int]) -> CatalogSummary:
    changed = replace(changes, version=opened.changes.version + 1, removed=np.array(sorted(removed), np.int64))
    changed.save(repository, opened.settings)
    return replace(opened, changes=changed).summary()


def _with(changes: CatalogChanges, new: Sequence[tuple[ItemKey, NewRow]]) -> CatalogChanges:
    if not new:
        return changes
    keys: list[ItemKey] = [*changes.keys.tolist(), *(key for key, _ in new)]
    rows = [row for _, row in new]
    ids, weights = np.stack([row.neighbor_ids for row in rows]), np.stack([row.neighbor_weights for row in rows])
    return replace(
        changes,
        keys=checked_keys(_keys(keys), name="item"),
        rows=np.concatenate([changes.rows, [row.values for row in rows]]),
        neighbor_ids=np.concatenate([changes.neighbor_ids, ids]) if len(changes) else ids,
        neighbor_weights=np.concatenate([changes.neighbor_weights, weights]) if len(changes) else weights,
    )


def _like(item: NewItem, opened: _Opened) -> list[int]:
    """Rows of the items that a new one is like."""
    if not item.like:
        raise OptionError(f"key {item.key} is new; say which items it is like: --like KEY,KEY")
    rows = []
    for text in item.like:
        row = opened.row(_key(text, opened.settings))
        if row is None:
            raise OptionError(f"key {item.key} is to be like {text}, which is not in the catalog; name items that are")
        rows.append(row)
    return rows


def _key(text: str, settings: ServingSettings) -> ItemKey:
    """A key of the model's type.

    Raises:
        OptionError: it is a text and the model's keys are integers.
        VocabularyError: it is not allowed.
    """
    if settings.item_key_type is DType.INT64:
        key = integer_key(text)
        if key is None:
            raise OptionError(f"key {text[:40]!r} is a text; item keys of this model are integers of 64 bits")
        return key
    encoded = text.encode(errors="surrogateescape")
    checked_keys([encoded], name="item")
    return encoded


def _keys(keys: Sequence[ItemKey]) -> AnyKeys:
    """Keys of one type, as an array."""
    return np.array(keys, np.int64 if keys and isinstance(keys[0], int) else object)


def _shown(key: ItemKey) -> str:
    return str(key) if isinstance(key, int) else key.decode(errors="backslashreplace")
