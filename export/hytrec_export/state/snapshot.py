"""A snapshot: the encoder's state after the first n events of a user, for one model. Derived; it may vanish any time.

    offset  bytes  field (little-endian)
         0      4  magic
         4      4  CRC-32 of what follows
         8      8  incarnation of the user
        16      8  n
        24      8  digest of the first n events
        32     16  model fingerprint
        48      -  tensors of `SNAPSHOT`, each padded to a multiple of 8 bytes

It is used only where the history has this incarnation and this digest at n: a count alone does not identify a prefix.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from hytrec.contract import DType, Sizes
from hytrec.signature import EVENT_COUNT, STATE, WINDOW_BEHAVIORS, WINDOW_ITEMS, WINDOW_TIMES
from hytrec_export.errors import StateStoreError
from hytrec_export.state.events import DIGEST_BYTES

Buffer: TypeAlias = bytes | bytearray | memoryview
State: TypeAlias = Mapping[str, NDArray[Any]]
"""Tensors by the names of `hytrec.signature.STATE`, shapes of `Sizes`, no batch axis."""

SNAPSHOT = tuple(t for t in STATE if t not in (WINDOW_ITEMS, WINDOW_BEHAVIORS, WINDOW_TIMES, EVENT_COUNT))
"""State tensors that the encoder alone can make; the window and the count are read off the history."""
_MAGIC = b"HYs1"
_HEADER = struct.Struct(f"<4sI{DIGEST_BYTES}sq{DIGEST_BYTES}s16s")
_CHECKED_FROM = 8
_ALIGNMENT = 8
_DTYPES: dict[DType, np.dtype[Any]] = {DType.FLOAT32: np.dtype("<f4"), DType.INT64: np.dtype("<i8")}
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True)
class _Place:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


@lru_cache(maxsize=16)
def _layout(sizes: Sizes) -> tuple[_Place, ...]:
    places = []
    start = _HEADER.size
    for tensor in SNAPSHOT:
        dtype, shape = _DTYPES[tensor.dtype], sizes.shape(tensor)
        stop = start + int(np.prod(shape)) * dtype.itemsize
        places.append(_Place(tensor.name, dtype, shape, start, stop))
        start = -(-stop // _ALIGNMENT) * _ALIGNMENT
    return tuple(places)


def snapshot_bytes(sizes: Sizes) -> int:
    """Size of a snapshot of this build."""
    return -(-_layout(sizes)[-1].stop // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True, kw_only=True)
class SnapshotHeader:
    """Which state a snapshot is.

    Args:
        incarnation, digest: of the history after `event_count` events.
        fingerprint: of the model, 16 bytes.
    """

    incarnation: bytes
    event_count: int
    digest: bytes
    fingerprint: bytes


def pack_snapshot(header: SnapshotHeader, state: State, sizes: Sizes) -> bytes:
    """A snapshot as bytes.

    Raises:
        StateStoreError: a tensor is missing, or of another shape or dtype than the build's.
    """
    raw = bytearray(snapshot_bytes(sizes))
    for place in _layout(sizes):
        array = state.get(place.name)
        if array is None:
            raise StateStoreError(f"the state has no {place.name}; it needs {', '.join(t.name for t in SNAPSHOT)}")
        if array.shape != place.shape or array.dtype != place.dtype:
            raise StateStoreError(
                f"{place.name} is {array.dtype} {array.shape}; this build stores {place.dtype} {place.shape}"
            )
        np.frombuffer(raw, place.dtype, array.size, place.start).reshape(place.shape)[...] = array
    _HEADER.pack_into(raw, 0, _MAGIC, 0, header.incarnation, header.event_count, header.digest, header.fingerprint)
    struct.pack_into("<I", raw, 4, crc32(memoryview(raw)[_CHECKED_FROM:]))
    return bytes(raw)


def unpack_header(raw: Buffer) -> SnapshotHeader | None:
    """What a snapshot, or its first `HEADER_BYTES` bytes, claims to be; the checksum is not looked at."""
    if len(raw) < _HEADER.size:
        return None
    magic, _, incarnation, event_count, digest, fingerprint = _HEADER.unpack_from(raw)
    if magic != _MAGIC:
        return None
    return SnapshotHeader(incarnation=incarnation, event_count=event_count, digest=digest, fingerprint=fingerprint)


def unpack_state(raw: Buffer, sizes: Sizes) -> dict[str, NDArray[Any]] | None:
    """The tensors of a snapshot, writable; None where it is damaged, half written or of another size.

    They are views of the buffer, or of a copy where it cannot be written.
    """
    if len(raw) != snapshot_bytes(sizes):
        return None
    body = np.frombuffer(raw, np.uint8)
    body = body if body.flags.writeable else body.copy()
    if crc32(body[_CHECKED_FROM:].data) != _HEADER.unpack_from(raw)[1]:
        return None
    return {
        place.name: body[place.start : place.stop].view(place.dtype).reshape(place.shape) for place in _layout(sizes)
    }
