"""The caller's own item and behavior keys, and the rows of the model's tables that stand for them.

Item rows are 1..I in the order of `item_keys`; 0 pads and I + 1 is the unknown item, unless rows are reserved between
them (`Vocabulary.extended`). Behavior rows are 1..A; 0 is "none" and the unknown behavior. Keys are int64 or strings
(UTF-8, 1 to 256 bytes, no NUL). Needs numpy alone: the server imports this module.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hytrec.contract import DType
from hytrec.data.keys import AnyKeys, Keys, KeyTable
from hytrec.errors import VocabularyError

__all__ = ["DAMAGED", "FORMAT_VERSION", "Vocabulary", "opened_archive"]

FORMAT_VERSION = 1
_NO_KEYS = np.empty(0, dtype="S1")


class Vocabulary:
    """Keys of items and behaviors in row order.

    Args:
        item_keys: (I,) at least one; row r is `item_keys[r - 1]`.
        behavior_keys: (A,) may be empty (then its type is strings).

    Raises:
        VocabularyError: no item; a key that is not allowed (see `checked_keys`); a key given twice.
    """

    def __init__(self, item_keys: AnyKeys, behavior_keys: AnyKeys = _NO_KEYS) -> None:
        self._items = KeyTable(item_keys, name="item")
        self._added: KeyTable | None = None
        self._rows = self._items.keys.size
        self._behaviors = KeyTable(behavior_keys if len(behavior_keys) else _NO_KEYS, name="behavior")
        if not self._items.keys.size:
            raise VocabularyError("the vocabulary has no items; give at least one item key")

    def extended(self, added_keys: AnyKeys, *, rows: int) -> Vocabulary:
        """This vocabulary and the keys that were added since, in a table with reserved rows.

        Args:
            added_keys: (n,) of rows I + 1..I + n.
            rows: item rows that there are, reserved ones included; the unknown item's is the next.

        Raises:
            VocabularyError: a key is not allowed, known already, of the other type or given twice, or rows are too few.
        """
        made = copy.copy(self)
        made._rows = rows  # noqa: SLF001 - a copy of this one
        made._added = KeyTable(added_keys, name="item") if len(added_keys) else None  # noqa: SLF001
        if made.last_item_row > rows:
            raise VocabularyError(f"{made.last_item_row} items are given and there are {rows} rows; reserve more")
        known = self._items.positions(added_keys) >= 0
        if known.any():
            raise VocabularyError(f"item key {added_keys[int(known.argmax())]!r} is known already; add others")
        return made

    @property
    def last_item_row(self) -> int:
        """Last row that has a key: I, and more where items were added."""
        return self._items.keys.size + (0 if self._added is None else self._added.keys.size)

    @property
    def unknown_row(self) -> int:
        """Row of the unknown item: I + 1, and more where rows are reserved."""
        return self._rows + 1

    @property
    def item_keys(self) -> Keys:
        """(I,) int64 or 'S', read-only; without those that were added."""
        return self._items.keys

    @property
    def behavior_keys(self) -> Keys:
        """(A,) int64 or 'S', read-only."""
        return self._behaviors.keys

    @property
    def item_key_type(self) -> DType:
        """INT64 or BYTES."""
        return self._items.key_type

    @property
    def behavior_key_type(self) -> DType:
        """INT64 or BYTES; BYTES where there are no behaviors."""
        return self._behaviors.key_type

    def item_rows(self, keys: AnyKeys) -> npt.NDArray[np.int64]:
        """(n,) rows of item keys, `unknown_row` for unknown ones. Raises: VocabularyError: keys of the other type."""
        rows = self._items.positions(keys) + 1
        unknown = rows == 0
        if self._added is not None and unknown.any():
            places = self._added.positions(keys)
            rows = np.where(unknown & (places >= 0), self.item_keys.size + 1 + places, rows)
            unknown = rows == 0
        rows[unknown] = self.unknown_row
        return rows

    def behavior_rows(self, keys: AnyKeys) -> npt.NDArray[np.int64]:
        """(n,) rows 1..A of behavior keys, 0 for unknown ones. Raises: VocabularyError: keys of the other type."""
        return self._behaviors.positions(keys) + 1

    def keys_of(self, rows: npt.NDArray[np.int64]) -> Keys:
        """(n,) item keys of rows.

        Raises:
            VocabularyError: a row outside 1..`last_item_row` (padding or the unknown item has no key).
        """
        rows = np.asarray(rows, dtype=np.int64)
        wrong = rows[(rows < 1) | (rows > self.last_item_row)]
        if wrong.size:
            raise VocabularyError(f"row {wrong[0]} has no item key; rows with a key are 1 to {self.last_item_row}")
        size = self.item_keys.size
        late = rows > size
        if self._added is None or not late.any():
            keys: Keys = self.item_keys[rows - 1]
            return keys
        added = self._added.keys
        mixed = np.empty(rows.shape, np.result_type(self.item_keys, added))
        mixed[~late], mixed[late] = self.item_keys[rows[~late] - 1], added[rows[late] - size - 1]
        return mixed

    def digest(self) -> str:
        """SHA-256 in hex over every key in row order; equal vocabularies have equal digests. Without added keys."""
        digest = hashlib.sha256(b"hytrec vocabulary")
        for keys in (self.item_keys, self.behavior_keys):
            digest.update(f"\n{keys.dtype.kind} {keys.size}\n".encode())
            digest.update(keys.astype("<i8").tobytes() if keys.dtype.kind == "i" else b"\0".join(keys.tolist()))
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the vocabulary as .npz, whole or not at all; without added keys."""
        path = Path(path)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez_compressed(
                    file, format_version=FORMAT_VERSION, item_keys=self.item_keys, behavior_keys=self.behavior_keys
                )
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            VocabularyError: the file is missing, damaged or of another format version.
        """
        path = Path(path)
        try:
            return cls(*_read(path))
        except FileNotFoundError:
            raise VocabularyError(f"vocabulary {path} is missing; copy it from the training run") from None
        except _OtherVersionError as error:
            raise VocabularyError(
                f"vocabulary {path} has format version {error}; this hytrec reads {FORMAT_VERSION}, train again"
            ) from None
        except DAMAGED as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise VocabularyError(f"vocabulary {path} is damaged ({reason}); copy it from the training run") from error


class _OtherVersionError(Exception):
    """Holds the version found."""


DAMAGED = (
    VocabularyError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged .npz archive of keys raises."""


@contextlib.contextmanager
def opened_archive(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An .npz archive, whose arrays are read when they are asked for. Raises: see `DAMAGED`."""
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise TypeError("not an .npz archive")
        yield arrays


def _read(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Item and behavior keys of a file."""
    with opened_archive(path) as arrays:
        version = int(arrays["format_version"].item())
        if version != FORMAT_VERSION:
            raise _OtherVersionError(version)
        items, behaviors = arrays["item_keys"], arrays["behavior_keys"]
    if items.ndim != 1 or behaviors.ndim != 1:
        raise ValueError("the keys are not one-dimensional")
    return items, behaviors
