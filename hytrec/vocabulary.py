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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hytrec.errors import VocabularyError
from hytrec.signature import DType

__all__ = ["FORMAT_VERSION", "MAX_KEY_BYTES", "Keys", "Vocabulary", "checked_keys"]

FORMAT_VERSION = 1
MAX_KEY_BYTES = 256

Keys: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.bytes_]
"""(n,) int64, or numpy 'S' holding UTF-8."""
AnyKeys: TypeAlias = npt.NDArray[Any] | Sequence[int] | Sequence[str] | Sequence[bytes]
"""Anything keys may come as: arrays of int, 'S', 'U' or of objects (Triton's bytes, str), or plain lists."""
_NO_KEYS = np.empty(0, dtype="S1")


def checked_keys(keys: AnyKeys, *, name: str) -> Keys:
    """Bring keys to int64 or numpy 'S', keeping their order.

    Args:
        name: what the keys are ("item", "behavior", "user"), for messages.

    Returns:
        (n,) int64, or (n,) 'S' as wide as its longest key.

    Raises:
        VocabularyError: keys that are neither integers nor strings, or a string that is empty, over 256 bytes, holds
            a NUL byte or is not UTF-8.
    """
    array = _one_dimension(keys)
    if array.dtype.kind in "iu":
        return _as_int64(array, name=name)
    encoded = _encoded(array)
    if encoded is None:
        raise VocabularyError(
            f"{name} keys are of type {_type_name(array)}; allowed are integers (int64) and strings, convert them first"
        )
    for key in encoded:
        _check_string(key, name=name)
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1)}")


def _as_int64(array: npt.NDArray[Any], *, name: str) -> npt.NDArray[np.int64]:
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise VocabularyError(f"{name} key {array.max()} is over 2**63 - 1; map the keys to int64 or strings")
    return array.astype(np.int64)


def _check_string(key: bytes, *, name: str) -> None:
    if not key:
        raise VocabularyError(f"{name} key is empty; string keys are 1 to {MAX_KEY_BYTES} bytes, drop such events")
    if len(key) > MAX_KEY_BYTES:
        raise VocabularyError(
            f"{name} key {_shown(key)} has {len(key)} bytes; at most {MAX_KEY_BYTES} are allowed, shorten or hash it"
        )
    if b"\0" in key:
        raise VocabularyError(f"{name} key {_shown(key)} holds a NUL byte; remove it")
    try:
        key.decode()
    except UnicodeDecodeError:
        raise VocabularyError(f"{name} key {_shown(key)} is not UTF-8; re-encode it") from None


def _shown(key: bytes) -> str:
    text = repr(key[:40])[1:]
    return f"{text}..." if len(key) > 40 else text


def _lengths(keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.char.str_len(keys).astype(np.int64)


def _type_name(array: npt.NDArray[Any]) -> str:
    if array.dtype.kind != "O":
        return str(array.dtype)
    return next(type(key).__name__ for key in array if not isinstance(key, bytes | str))


def _one_dimension(keys: AnyKeys) -> npt.NDArray[Any]:
    if not isinstance(keys, np.ndarray):
        texts = any(isinstance(key, str | bytes) for key in keys)
        keys = np.array(keys, dtype=object) if texts else np.array(keys, dtype=None if len(keys) else np.int64)
    return keys.reshape(-1)


def _encoded(array: npt.NDArray[Any]) -> list[bytes] | None:
    """UTF-8 of string keys; None when some key is not a string. A lone surrogate becomes bytes that match nothing."""
    if array.dtype.kind not in "SUO":
        return None
    keys: list[Any] = array.tolist()
    kinds = set(map(type, keys))
    if kinds <= {bytes}:
        return keys
    if not all(issubclass(kind, bytes | str) for kind in kinds):
        return None
    return [key.encode(errors="surrogatepass") if isinstance(key, str) else bytes(key) for key in keys]


class _Table:
    """Keys in row order with a sorted copy to search."""

    def __init__(self, keys: AnyKeys, *, name: str) -> None:
        """Raises: VocabularyError: a key that is not allowed, or one given twice."""
        self.name = name
        self.keys = checked_keys(keys, name=name)
        self._order = np.argsort(self.keys, kind="stable")
        self._sorted = self.keys[self._order]
        self._lengths = _lengths(self._sorted) if self.keys.dtype.kind == "S" else None
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if twice.size:
            raise VocabularyError(f"{name} key {self._sorted[twice[0]]!r} is given twice; every key needs one row")
        self.keys.setflags(write=False)

    @property
    def key_type(self) -> DType:
        return DType.INT64 if self.keys.dtype.kind == "i" else DType.BYTES

    def positions(self, keys: AnyKeys) -> npt.NDArray[np.int64]:
        """(n,) positions of keys in `self.keys`, -1 for unknown ones.

        Raises:
            VocabularyError: strings asked of integer keys, or the other way round.
        """
        array = _one_dimension(keys)
        if not (array.size and self.keys.size):
            return np.full(array.size, -1, dtype=np.int64)
        wanted, lengths = self._wanted_integers(array) if self._lengths is None else self._wanted_strings(array)
        places = np.minimum(np.searchsorted(self._sorted, wanted), self.keys.size - 1)
        found = self._sorted[places] == wanted
        if self._lengths is not None:
            # Fixed-width strings drop trailing NULs and are cut at the table's width: equal only with equal length.
            found &= self._lengths[places] == lengths
        return np.where(found, self._order[places], -1)

    def _wanted_integers(self, array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], None]:
        if array.dtype.kind == "O" and all(isinstance(key, int) for key in array):
            array = np.array(array.tolist())
        if array.dtype.kind not in "iu":
            raise VocabularyError(f"{self.name} keys are int64 in this vocabulary, not {_kind_name(array)}")
        return _as_int64(array, name=self.name), None

    def _wanted_strings(self, array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        encoded = _encoded(array)
        if encoded is None:
            raise VocabularyError(f"{self.name} keys are strings in this vocabulary, not {_kind_name(array)}")
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return np.array(encoded, dtype=self.keys.dtype), lengths


def _kind_name(array: npt.NDArray[Any]) -> str:
    return "strings" if array.dtype.kind in "SU" or _encoded(array) is not None else _type_name(array)


class Vocabulary:
    """Keys of items and behaviors in row order.

    Args:
        item_keys: (I,) at least one; row r is `item_keys[r - 1]`.
        behavior_keys: (A,) may be empty (then its type is strings).

    Raises:
        VocabularyError: no item; a key that is not allowed (see `checked_keys`); a key given twice.
    """

    def __init__(self, item_keys: AnyKeys, behavior_keys: AnyKeys = _NO_KEYS) -> None:
        self._items = _Table(item_keys, name="item")
        self._behaviors = _Table(behavior_keys if len(behavior_keys) else _NO_KEYS, name="behavior")
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
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        version = int(arrays["format_version"])
        if version != FORMAT_VERSION:
            raise _OtherVersionError(version)
        items, behaviors = arrays["item_keys"], arrays["behavior_keys"]
    if items.ndim != 1 or behaviors.ndim != 1:
        raise ValueError("the keys are not one-dimensional")
    return items, behaviors
