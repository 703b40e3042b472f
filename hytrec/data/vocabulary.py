"""The caller's own item and behavior keys, and the rows of the model's tables that stand for them.

Item rows are 1..I in the order of `item_keys`; 0 pads and I + 1 is the unknown item. Behavior rows are 1..A; 0 is
"none" and the unknown behavior. Keys are int64 or strings (UTF-8, 1 to 256 bytes, no NUL). Needs numpy alone: the
server imports this module.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hytrec.contract import DType
from hytrec.data.keys import AnyKeys, Keys, KeyTable
from hytrec.errors import VocabularyError

__all__ = ["FORMAT_VERSION", "Vocabulary"]

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
        self._behaviors = KeyTable(behavior_keys if len(behavior_keys) else _NO_KEYS, name="behavior")
        if not self._items.keys.size:
            raise VocabularyError("the vocabulary has no items; give at least one item key")

    @property
    def item_keys(self) -> Keys:
        """(I,) int64 or 'S', read-only."""
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
        """(n,) rows 1..I of item keys, I + 1 for unknown ones. Raises: VocabularyError: keys of the other type."""
        rows = self._items.positions(keys) + 1
        rows[rows == 0] = self.item_keys.size + 1
        return rows

    def behavior_rows(self, keys: AnyKeys) -> npt.NDArray[np.int64]:
        """(n,) rows 1..A of behavior keys, 0 for unknown ones. Raises: VocabularyError: keys of the other type."""
        return self._behaviors.positions(keys) + 1

    def keys_of(self, rows: npt.NDArray[np.int64]) -> Keys:
        """(n,) item keys of rows 1..I.

        Raises:
            VocabularyError: a row outside 1..I (padding or the unknown item has no key).
        """
        rows = np.asarray(rows, dtype=np.int64)
        wrong = rows[(rows < 1) | (rows > self.item_keys.size)]
        if wrong.size:
            raise VocabularyError(f"row {wrong[0]} has no item key; rows with a key are 1 to {self.item_keys.size}")
        keys: Keys = self.item_keys[rows - 1]
        return keys

    def digest(self) -> str:
        """SHA-256 in hex over every key in row order; equal vocabularies have equal digests."""
        digest = hashlib.sha256(b"hytrec vocabulary")
        for keys in (self.item_keys, self.behavior_keys):
            digest.update(f"\n{keys.dtype.kind} {keys.size}\n".encode())
            digest.update(keys.astype("<i8").tobytes() if keys.dtype.kind == "i" else b"\0".join(keys.tolist()))
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the vocabulary as .npz, whole or not at all."""
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
        except _DAMAGED as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise VocabularyError(f"vocabulary {path} is damaged ({reason}); copy it from the training run") from error


class _OtherVersionError(Exception):
    """Holds the version found."""


_DAMAGED = (
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


def _read(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Item and behavior keys of a file."""
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise TypeError("not an .npz archive")
        version = int(arrays["format_version"].item())
        if version != FORMAT_VERSION:
            raise _OtherVersionError(version)
        items, behaviors = arrays["item_keys"], arrays["behavior_keys"]
    if items.ndim != 1 or behaviors.ndim != 1:
        raise ValueError("the keys are not one-dimensional")
    return items, behaviors
