"""Keys as arrays: what may be a key, and the search of many keys in a table of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hytrec.contract import DType
from hytrec.errors import VocabularyError

__all__ = ["MAX_KEY_BYTES", "AnyKeys", "Int64Array", "KeyTable", "Keys", "checked_keys"]

MAX_KEY_BYTES = 256

Int64Array: TypeAlias = npt.NDArray[np.int64]
Keys: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.bytes_]
"""(n,) int64, or numpy 'S' holding UTF-8."""
AnyKeys: TypeAlias = npt.NDArray[Any] | Sequence[int] | Sequence[str] | Sequence[bytes]
"""Anything keys may come as: arrays of int, 'S', 'U' or of objects (Triton's bytes, str), or plain lists."""


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


def _as_int64(array: npt.NDArray[Any], *, name: str) -> Int64Array:
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


def _shown(key: int | bytes) -> str:
    if isinstance(key, int):
        return str(key)
    text = key.decode(errors="backslashreplace")
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _lengths(keys: npt.NDArray[Any]) -> Int64Array:
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


_MAX_SPARSITY = 2
"""Integer keys that have so many places each, from the smallest to the largest, are looked up by an array of places."""


class KeyTable:
    """Keys in row order: integers that lie close together with the position of each, others with a sorted copy."""

    def __init__(self, keys: AnyKeys, *, name: str) -> None:
        """Raises: VocabularyError: a key that is not allowed, or one given twice."""
        self.name = name
        self.keys = checked_keys(keys, name=name)
        self._order = np.argsort(self.keys, kind="stable")
        self._sorted = self.keys[self._order]
        self._lengths = _lengths(self._sorted) if self.keys.dtype.kind == "S" else None
        self._places: npt.NDArray[np.int32] | None = None
        self._before_first = 0
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if twice.size:
            raise VocabularyError(
                f"{name} key {_shown(self._sorted[twice[0]].item())} is given twice; every key needs one row"
            )
        self.keys.setflags(write=False)
        if self.keys.size and self._lengths is None:
            self._lay_out(np.asarray(self._sorted, np.int64))

    def _lay_out(self, ascending: Int64Array) -> None:
        """Give every integer from the first key to the last a place, if these are few; the sorted copy goes then."""
        first, last = int(ascending[0]), int(ascending[-1])
        if last - first >= _MAX_SPARSITY * self.keys.size or first == np.iinfo(np.int64).min:
            return
        places = np.full(last - first + 3, -1, np.int32)  # one at each end for what lies outside
        places[ascending - first + 1] = self._order
        self._places, self._before_first = places, first - 1
        self._sorted, self._order = self._sorted[:0], self._order[:0]

    @property
    def key_type(self) -> DType:
        """INT64 or BYTES."""
        return DType.INT64 if self.keys.dtype.kind == "i" else DType.BYTES

    def positions(self, keys: AnyKeys) -> Int64Array:
        """(n,) positions of keys in `self.keys`, -1 for unknown ones.

        Raises:
            VocabularyError: string keys looked up among integer ones, or the other way round.
        """
        array = _one_dimension(keys)
        if not (array.size and self.keys.size):
            return np.full(array.size, -1, dtype=np.int64)
        wanted, lengths = self._wanted_integers(array) if self._lengths is None else self._wanted_strings(array)
        if self._places is not None:
            return self._places.take(wanted - self._before_first, mode="clip").astype(np.int64)
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
