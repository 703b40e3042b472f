"""Follows a repository's catalog file while it is served: one look at the file's inode and time for a server batch.

There is no thread that could die. A file that cannot be used is told once, and the catalog before it goes on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import CANDIDATE_ROWS, ITEM_ROWS
from hytrec_export.catalog.changes import CatalogChanges
from hytrec_export.catalog.tables import LiveTables
from hytrec_export.errors import GraphError, RepositoryError
from hytrec_export.runtime.runners import Live
from hytrec_export.settings import CATALOG_FILE, VOCABULARY_FILE, ServingSettings

_LOG = logging.getLogger(__name__)
MARK_BYTES = 16
RETRY_S = 5.0
"""A file that was refused is tried again after this time."""
Mark: TypeAlias = tuple[int, int, int] | None
"""Inode, time and size of the file; None where there is none."""
_NO_FILE: Mark = (-1, -1, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalog:
    """One version of a catalog.

    Args:
        vocabulary: with the added items.
        removed: (m,) int64 rows that are not recommended.
        mark: 16 bytes, of the added keys: what an item's key is unknown to; empty where the build reserved no rows.
    """

    version: int
    vocabulary: Vocabulary
    removed: NDArray[np.int64]
    mark: bytes

    @classmethod
    def of(cls, vocabulary: Vocabulary, changes: CatalogChanges, settings: ServingSettings) -> Catalog:
        """The catalog of the build, changed.

        Raises:
            VocabularyError: an added key is one of the build's.
        """
        extended = vocabulary.extended(changes.keys, rows=settings.item_rows)
        keys = repr(changes.keys.tolist()).encode()
        mark = blake2b(keys, digest_size=MARK_BYTES).digest() if settings.reserved else b""
        return cls(version=changes.version, vocabulary=extended, removed=changes.removed, mark=mark)

    @classmethod
    def load(cls, repository: Path) -> Catalog:
        """The catalog of a repository as it is now.

        Raises:
            RepositoryError, VocabularyError: a file is missing or damaged.
        """
        settings = ServingSettings.load(repository)
        return cls.of(
            Vocabulary.load(repository / VOCABULARY_FILE), CatalogChanges.load(repository, settings), settings
        )


class CatalogWatch:
    """The catalog of a served repository in one process; several threads may use it.

    Versions only go on, and a later step of a request looks at the file after an earlier one: whatever row an earlier
    step gives an item, a later one knows it.

    Args:
        vocabulary: of the build; None in a process that needs no keys.
        models: graphs of this process, by name.
        clock: monotonic seconds.

    Raises:
        RepositoryError, VocabularyError: a file of the repository is missing or damaged, the catalog's among them.
    """

    def __init__(
        self,
        repository: Path,
        settings: ServingSettings,
        vocabulary: Vocabulary | None = None,
        *,
        models: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._file = repository / CATALOG_FILE
        self._place = os.fspath(self._file)
        self._settings = settings
        self._vocabulary = vocabulary
        self._clock = clock
        self._changing = Lock()
        models = tuple(models) if settings.reserved else ()
        self._tables = LiveTables(repository, settings, models=models) if models else None
        self._changes = CatalogChanges.none(settings)
        self._catalog = None if vocabulary is None else Catalog.of(vocabulary, self._changes, settings)
        self._mark: Mark = None
        self._refused: Mark = _NO_FILE
        self._retry_at = 0.0
        if settings.reserved and (mark := self._look()) is not None:
            self._take(CatalogChanges.load(repository, settings))
            self._mark = mark

    def current(self) -> Catalog:
        """The newest usable version."""
        self._newest()
        if self._catalog is None:
            raise TypeError("this process was opened without a vocabulary")
        return self._catalog

    def mark(self) -> bytes:
        """See `Catalog`."""
        return self.current().mark

    def live(self, model: str) -> Live | None:
        """Gives runs of a graph the newest tables; None where the build reserved no rows."""
        if self._tables is None:
            return None
        tables = self._tables.of_graph(model)
        settings = self._settings

        def newest(feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            changes = self._newest()
            known = settings.items + len(changes)
            for name in (ITEM_ROWS.name, CANDIDATE_ROWS.name):
                rows = feed.get(name)
                if rows is not None and ((rows > known) & (rows <= settings.item_rows)).any():
                    raise GraphError(
                        f"{model} got an item that was added to the catalog and is not in this process yet; see the "
                        "server's log on the catalog, and retry the request"
                    )
            return tables if changes.version else {}  # on a GPU they would be copied for every run

        return newest

    def _newest(self) -> CatalogChanges:
        if self._settings.reserved:
            mark = self._look()
            if mark != self._mark and (mark != self._refused or self._clock() >= self._retry_at):
                with self._changing:
                    if mark != self._mark:
                        self._follow(mark)
        return self._changes

    def _look(self) -> Mark:
        try:
            status = os.stat(self._place)  # noqa: PTH116  with every batch: a Path takes several times as long
        except FileNotFoundError:
            return None
        except OSError:  # a look that fails says nothing
            return self._mark
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _follow(self, mark: Mark) -> None:
        """Take over a file that is new, or say once why not; it is tried again later, as the disk may have failed."""
        try:
            changes = CatalogChanges.load(self._repository, self._settings)
            self._take(changes)
        except Exception as error:  # noqa: BLE001 - whatever it is, requests go on
            if mark != self._refused:
                _LOG.warning("the catalog stays at version %d: %s", self._changes.version, error)
            self._refused, self._retry_at = mark, self._clock() + RETRY_S
            return
        self._mark, self._refused = mark, _NO_FILE

    def _take(self, changes: CatalogChanges) -> None:
        if not changes.continues(self._changes):
            raise RepositoryError(
                f"{self._file} has version {changes.version}, which does not continue version "
                f"{self._changes.version}: items have lost their rows; bring the file back, or restart the server"
            )
        catalog = None if self._vocabulary is None else Catalog.of(self._vocabulary, changes, self._settings)
        if self._tables is not None:
            self._tables.apply(self._changes, changes)
        self._changes, self._catalog = changes, catalog
