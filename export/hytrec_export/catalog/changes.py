"""What was changed of a repository's catalog since its build: one file, replaced as a whole.

catalog.npz    version, keys of added items in the order of their rows, the rows themselves, and removed rows

An item's row is final: a later file holds all keys and rows of an earlier one, in the same places.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import DType
from hytrec.data.keys import Keys, checked_keys
from hytrec.data.vocabulary import DAMAGED, opened_archive
from hytrec_export.errors import RepositoryError
from hytrec_export.repository.atomic_swap import sync
from hytrec_export.settings import CATALOG_FILE, NEW_CATALOG_FILE, ServingSettings

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class CatalogChanges:
    """A catalog's changes since the build.

    Args:
        version: counts the changes, from 1 on; 0 is the catalog of the build.
        keys: (n,) of the items in rows I + 1..I + n.
        rows: (n, D) float32.
        neighbor_ids, neighbor_weights: (n, K) int32 and float32; K = 0 where the reranker reads none.
        removed: (m,) int64 rows that are not recommended, in order.
    """

    version: int
    keys: Keys
    rows: NDArray[np.float32]
    neighbor_ids: NDArray[np.int32]
    neighbor_weights: NDArray[np.float32]
    removed: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def none(cls, settings: ServingSettings) -> CatalogChanges:
        """The catalog of the build."""
        return cls(
            version=0,
            keys=_no_keys(settings),
            rows=np.zeros((0, settings.sizes.width), np.float32),
            neighbor_ids=np.zeros((0, 0), np.int32),
            neighbor_weights=np.zeros((0, 0), np.float32),
            removed=np.zeros(0, np.int64),
        )

    def continues(self, before: CatalogChanges) -> bool:
        """Whether every item that had a row before has the same one still."""
        same = len(before)
        return (
            self.version >= before.version
            and len(self) >= same
            and self.keys[:same].tolist() == before.keys.tolist()
            and np.array_equal(self.rows[:same], before.rows)
            and (not same or np.array_equal(self.neighbor_ids[:same], before.neighbor_ids))
            and (not same or np.array_equal(self.neighbor_weights[:same], before.neighbor_weights))
        )

    def save(self, repository: Path, settings: ServingSettings) -> None:
        """Replace the file, all at once, and durable. The caller has the `exclusive` right.

        Raises:
            RepositoryError: it cannot be written; the old one stands.
        """
        path = repository / NEW_CATALOG_FILE
        try:
            with path.open("wb") as file:
                np.savez(
                    file,
                    format_version=FORMAT_VERSION,
                    fingerprint=settings.fingerprint,
                    items=settings.items,
                    version=self.version,
                    keys=self.keys,
                    rows=self.rows,
                    neighbor_ids=self.neighbor_ids,
                    neighbor_weights=self.neighbor_weights,
                    removed=self.removed,
                )
                file.flush()
                os.fsync(file.fileno())
            path.replace(repository / CATALOG_FILE)
            sync(repository)
        except OSError as error:
            raise RepositoryError(
                f"{repository / CATALOG_FILE} cannot be written ({error.strerror}); check permissions and free space; "
                "the catalog is as it was"
            ) from error

    @classmethod
    def load(cls, repository: Path, settings: ServingSettings) -> CatalogChanges:
        """Read the file of a repository; the catalog of the build where there is none.

        Raises:
            RepositoryError: it is damaged, of another model or of another format version.
        """
        path = repository / CATALOG_FILE
        try:
            with opened_archive(path) as archive:
                values = dict(archive)
            _check_origin(values, settings)
            changes = cls(
                version=int(values["version"]),
                keys=checked_keys(values["keys"], name="item") if len(values["keys"]) else _no_keys(settings),
                rows=values["rows"],
                neighbor_ids=values["neighbor_ids"],
                neighbor_weights=values["neighbor_weights"],
                removed=values["removed"],
            )
            _check(changes, settings)
        except FileNotFoundError:
            return cls.none(settings)
        except DAMAGED as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RepositoryError(
                f"{path} is damaged ({reason}); bring it back from a copy, or remove it for the catalog of the build"
            ) from error
        return changes


@contextmanager
def exclusive(repository: Path) -> Iterator[None]:
    """The right to change a repository's catalog; one process at a time has it, others wait.

    Raises:
        RepositoryError: there is no repository.
    """
    try:
        folder = os.open(repository, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RepositoryError(
            f"there is no repository {repository} ({error.strerror}); make one with: hytrec-export build RUN"
        ) from error
    try:
        flock(folder, LOCK_EX)
        yield
    finally:
        os.close(folder)


def _no_keys(settings: ServingSettings) -> Keys:
    return np.zeros(0, np.int64 if settings.item_key_type is DType.INT64 else "S1")


def _check_origin(values: dict[str, NDArray[Any]], settings: ServingSettings) -> None:
    """Raises: ValueError: the file belongs to another build."""
    if int(values["format_version"]) != FORMAT_VERSION:
        raise ValueError(f"format version {values['format_version']}, this hytrec-export reads {FORMAT_VERSION}")
    if str(values["fingerprint"]) != settings.fingerprint or int(values["items"]) != settings.items:
        raise ValueError(f"it is of model {values['fingerprint']}, and the repository of {settings.fingerprint}")


def _check(changes: CatalogChanges, settings: ServingSettings) -> None:
    """Raises: ValueError: shapes, types or numbers that cannot be."""
    count = len(changes.keys)
    if count > settings.reserved:
        raise ValueError(f"it has {count} added items, and the build {settings.reserved} reserved rows")
    if changes.keys.dtype.kind != ("i" if settings.item_key_type is DType.INT64 else "S"):
        raise ValueError("its keys are of another type than the model's")
    expected = {"rows": (count, settings.sizes.width), "neighbor_ids": None, "neighbor_weights": None}
    for name, dtype in (("rows", np.float32), ("neighbor_ids", np.int32), ("neighbor_weights", np.float32)):
        array = getattr(changes, name)
        shape = expected[name] or changes.neighbor_ids.shape
        if array.dtype != dtype or array.ndim != 2 or array.shape != shape or len(array) != count:
            raise ValueError(f"its {name} are {array.dtype} {array.shape}")
    if not (np.isfinite(changes.rows).all() and np.isfinite(changes.neighbor_weights).all()):
        raise ValueError("it has numbers that are not finite")
    ids, removed, last = changes.neighbor_ids, changes.removed, settings.items + count
    if ids.size and (ids.min() < 0 or ids.max() > settings.item_rows):
        raise ValueError("it has neighbors that are no items")
    if removed.dtype != np.int64 or removed.ndim != 1 or ((removed < 1) | (removed > last)).any():
        raise ValueError("it has removed rows that are no items")
