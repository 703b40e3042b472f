"""Events as bytes: columns of the fewest bytes that hold them.

    offset  bytes  field (little-endian)
         0      4  CRC-32 of what follows
         4      4  number of events T
         8      1  behaviors: 0 no event has one, 1 every event has, 2 some have
         9      -  [ceil(T / 8)] which events have a behavior, where some have
                -  times, item keys, behavior keys (of the events that have one): a column each

A column of integers is its minimum (8 bytes), the bytes of a number (1: 0, 1, 2, 4 or 8), and every number's distance
from the minimum. A column of strings is the number of different ones (4 bytes), their lengths (2 bytes each), their
bytes, and a column of integers that says which string each is.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from hytrec.contract import DType
from hytrec_export.state.events import KeyTypes, StoredEvents, no_keys

_CHECKSUM = struct.Struct("<I")
_HEADER = struct.Struct("<IB")
_NUMBERS = struct.Struct("<qB")
_COUNT = struct.Struct("<I")
_WIDTHS = {0: 0, 1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}
_DTYPES = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}
_NONE, _ALL, _SOME = 0, 1, 2


class DamagedEventsError(Exception):
    """Bytes that `encode_events` did not write."""


def encode_events(events: StoredEvents) -> bytes:
    """Events as bytes."""
    count, given = len(events), int(np.count_nonzero(events.has_behavior))
    kind = _NONE if not given else _ALL if given == count else _SOME
    parts = [_HEADER.pack(count, kind)]
    if kind == _SOME:
        parts.append(np.packbits(events.has_behavior).tobytes())
    parts += _integers(events.times)
    parts += _keys(events.item_keys)
    if given:
        parts += _keys(events.behavior_keys if kind == _ALL else events.behavior_keys[events.has_behavior])
    return _with_checksum(parts)


def append_events(raw: bytes, events: StoredEvents) -> bytes | None:
    """`encode_events` of what is in `raw` and of a few events after it, without decoding.

    Args:
        raw: as `encode_events` wrote it.
        events: with keys of the same types.

    Returns:
        None where a column has to be written anew: of strings, or of numbers below its minimum, or too far above it.
    """
    count, kind = _HEADER.unpack_from(raw, _CHECKSUM.size)
    given = int(np.count_nonzero(events.has_behavior))
    columns = [events.times, events.item_keys, *([events.behavior_keys] if given else [])]
    same_kind = given == (0 if kind == _NONE else len(events))
    if not (count and len(events)) or kind == _SOME or not same_kind:
        return None
    if any(column.dtype == object for column in columns):
        return None
    parts, at = [_HEADER.pack(count + len(events), kind)], _CHECKSUM.size + _HEADER.size
    for column in columns:
        base, width = _NUMBERS.unpack_from(raw, at)
        end = at + _NUMBERS.size + count * width
        limit = 1 << 8 * width
        distances = [value - base for value in column.tolist()]
        if min(distances) < 0 or max(distances) >= limit:
            return None
        parts += [raw[at:end], *[distance.to_bytes(width, "little") for distance in distances]]
        at = end
    return _with_checksum(parts)


def decode_events(raw: bytes, types: KeyTypes) -> StoredEvents:
    """What `encode_events` was given.

    Raises:
        DamagedEventsError: the bytes are others, or of keys of other types.
    """
    if len(raw) < _CHECKSUM.size + _HEADER.size:
        raise DamagedEventsError
    if _CHECKSUM.unpack_from(raw)[0] != crc32(memoryview(raw)[_CHECKSUM.size :]):
        raise DamagedEventsError
    count, kind = _HEADER.unpack_from(raw, _CHECKSUM.size)
    try:
        reader = _Reader(raw, _CHECKSUM.size + _HEADER.size)
        has_behavior = np.ones(count, bool) if kind == _ALL else np.zeros(count, bool)
        if kind == _SOME:
            has_behavior = np.unpackbits(reader.take(np.uint8, -(-count // 8)), count=count).astype(bool)
        times = reader.integers(count)
        item_keys = reader.keys(count, types.item)
        behavior_keys = no_keys(types.behavior, count)
        if kind:
            given = int(np.count_nonzero(has_behavior))
            behavior_keys[has_behavior] = reader.keys(given, types.behavior)
        reader.end()
    except (struct.error, ValueError, LookupError) as error:
        raise DamagedEventsError from error
    return StoredEvents(item_keys=item_keys, behavior_keys=behavior_keys, has_behavior=has_behavior, times=times)


def _with_checksum(parts: list[bytes]) -> bytes:
    body = b"".join(parts)
    return _CHECKSUM.pack(crc32(body)) + body


def _integers(values: NDArray[np.int64]) -> list[bytes]:
    if not len(values):
        return [_NUMBERS.pack(0, 0)]
    base = np.minimum.reduce(values)  # what values.min() calls in the end
    distances = (values - base).view(np.uint64)  # exact modulo 2**64, whatever the sign
    width = _WIDTHS[(int(np.maximum.reduce(distances)).bit_length() + 7) // 8]
    packed = b"" if not width else distances.astype(_DTYPES[width]).tobytes()
    return [_NUMBERS.pack(int(base), width), packed]


def _keys(keys: NDArray[Any]) -> list[bytes]:
    if keys.dtype != object:
        return _integers(keys)
    numbers: dict[bytes, int] = {}
    codes = [numbers.setdefault(key, len(numbers)) for key in keys.tolist()]
    lengths = np.fromiter(map(len, numbers), "<u2", len(numbers))
    return [_COUNT.pack(len(numbers)), lengths.tobytes(), b"".join(numbers), *_integers(np.array(codes, np.int64))]


class _Reader:
    def __init__(self, raw: bytes, position: int) -> None:
        self._raw = raw
        self._position = position

    def take(self, dtype: Any, count: int) -> NDArray[Any]:
        found: NDArray[Any] = np.frombuffer(self._raw, dtype, count, self._position) if count else np.empty(0, dtype)
        self._position += found.nbytes
        return found

    def integers(self, count: int) -> NDArray[np.int64]:
        base, width = _NUMBERS.unpack_from(self._raw, self._position)
        self._position += _NUMBERS.size
        numbers = self.take(_DTYPES[width], count).astype(np.int64) if width else np.zeros(count, np.int64)
        numbers += base
        return numbers

    def keys(self, count: int, dtype: DType) -> NDArray[Any]:
        if dtype is DType.INT64:
            return self.integers(count)
        (different,) = _COUNT.unpack_from(self._raw, self._position)
        self._position += _COUNT.size
        texts = np.empty(different, object)
        for at, length in enumerate(self.take("<u2", different).tolist()):
            texts[at] = self._raw[self._position : self._position + length]
            self._position += length
        return texts[self.integers(count)]

    def end(self) -> None:
        if self._position != len(self._raw):
            raise ValueError(self._position)
