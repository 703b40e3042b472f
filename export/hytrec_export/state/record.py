"""One user's record: a fixed header, then the state's arrays, raw.

    offset  bytes  field (little-endian)
         0      8  magic
         8      4  format version
        12      4  CRC-32 of the body
        16      4  bytes of the body
        20     24  L, H, K, V, D, W
        44      4  0
        48     16  model fingerprint
        64      8  written at, unix seconds
        72      8  event_count
        80      8  calls applied since the record began
        88    512  request_ids of 32 of them at most, oldest first; see `following_calls`
       600     36  0
       636      4  CRC-32 of the header up to here, then of the user id
       640      -  body: the arrays of `signature.STATE` in that order, each padded to a multiple of 8 bytes

The two checksums cover everything, the user id too, so that a record found under another key is damage as well.
CRC-32 catches every error of up to 32 neighboring bits; ISA-L's runs at over 30 GB/s, zlib's at 3.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from hytrec.contract import DType, Sizes, StateStatus
from hytrec.signature import CLIENT_SLOT_BYTES, EVENT_COUNT, REQUEST_ID_BYTES, STATE
from hytrec_export.errors import StateStoreError
from hytrec_export.state.store import NO_REVISION, State

MAGIC = b"HYTRECst"
FORMAT_VERSION = 1
KEPT_CALLS = 32
_HEADER = struct.Struct(f"<8s3I6I4x16sqqQ{KEPT_CALLS * REQUEST_ID_BYTES}s36x")
_CHECKSUM = struct.Struct("<I")
_VERSION = struct.Struct("<8sI")
_BODY_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_ALIGNMENT = 8
_DTYPES: dict[DType, np.dtype[Any]] = {DType.FLOAT32: np.dtype("<f4"), DType.INT64: np.dtype("<i8")}

Buffer: TypeAlias = bytes | bytearray | memoryview
Damage: TypeAlias = Literal[StateStatus.DAMAGED, StateStatus.MODEL_MISMATCH]


@dataclass(frozen=True)
class _Slot:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


@lru_cache(maxsize=16)
def _layout(sizes: Sizes) -> tuple[_Slot, ...]:
    """Where each array stands in the body."""
    slots = []
    start = 0
    for tensor in STATE:
        dtype, shape = _DTYPES[tensor.dtype], sizes.shape(tensor)
        stop = start + int(np.prod(shape)) * dtype.itemsize
        slots.append(_Slot(tensor.name, dtype, shape, start, stop))
        start = -(-stop // _ALIGNMENT) * _ALIGNMENT
    return tuple(slots)


def record_bytes(sizes: Sizes) -> int:
    """Size of a record of this build."""
    return HEADER_BYTES + -(-_layout(sizes)[-1].stop // _ALIGNMENT) * _ALIGNMENT


def _record_sizes(sizes: Sizes) -> tuple[int, ...]:
    return (sizes.layers, sizes.heads, sizes.key_size, sizes.value_size, sizes.width, sizes.window)


@lru_cache(maxsize=16)
def _sizes_of(fields: tuple[int, ...]) -> Sizes:
    layers, heads, key_size, value_size, width, window = fields
    return Sizes(
        layers=layers,
        heads=heads,
        key_size=key_size,
        value_size=value_size,
        width=width,
        window=window,
        retrieved=0,
    )


@dataclass(frozen=True, kw_only=True)
class Header:
    """What stands before the arrays; `sizes.retrieved` is not stored and 0 here."""

    sizes: Sizes
    fingerprint: str
    written_at: int
    event_count: int
    calls: int
    ring: bytes

    @property
    def revision(self) -> bytes:
        """request_id of the last write."""
        return (self.kept or (NO_REVISION,))[-1]

    @property
    def request_ids(self) -> frozenset[bytes]:
        """The kept calls."""
        return frozenset(self.kept)

    @cached_property
    def kept(self) -> tuple[bytes, ...]:
        """The kept calls, oldest first."""
        stop = min(self.calls, KEPT_CALLS) * REQUEST_ID_BYTES
        return tuple([self.ring[i : i + REQUEST_ID_BYTES] for i in range(0, stop, REQUEST_ID_BYTES)])


def following_calls(previous: Header | None, request_id: bytes) -> tuple[int, bytes]:
    """How many calls there are, and the bytes of the kept ones, once `request_id` is applied.

    Where there are too many, the client slot that has most of them loses its oldest. A request whose response was lost
    is alone in its slot, so it stays known however fast others write, as long as fewer than 32 requests are in flight.
    """
    kept = [*(previous.kept if previous else ()), request_id]
    if len(kept) > KEPT_CALLS:
        client_slots = [call[:CLIENT_SLOT_BYTES] for call in kept]
        ((fullest, _),) = Counter(client_slots).most_common(1)  # of equal ones that whose oldest call came first
        del kept[client_slots.index(fullest)]
    calls = previous.calls if previous else 0
    return calls + 1, b"".join(kept).ljust(KEPT_CALLS * REQUEST_ID_BYTES, b"\0")


def unsealed(state: State, sizes: Sizes) -> bytearray:
    """A record whose body is filled and checksummed; the rest of its header is empty.

    Raises:
        StateStoreError: an array is missing, or of another shape or dtype than the build's.
    """
    record = bytearray(record_bytes(sizes))
    for slot in _layout(sizes):
        array = state.get(slot.name)
        if array is None:
            raise StateStoreError(f"the state has no {slot.name}; a state needs {', '.join(t.name for t in STATE)}")
        if array.shape != slot.shape or array.dtype != slot.dtype:
            raise StateStoreError(
                f"{slot.name} is {array.dtype} {array.shape}; this build stores {slot.dtype} {slot.shape}"
            )
        target = np.frombuffer(record, slot.dtype, array.size, HEADER_BYTES + slot.start)
        target.reshape(slot.shape)[...] = array
    _BODY_CHECKSUM.pack_into(record, _VERSION.size, crc32(memoryview(record)[HEADER_BYTES:]))
    return record


def seal(record: bytearray, header: Header, user_id: bytes) -> None:
    """Complete the header of a record that `unsealed` made."""
    _HEADER.pack_into(
        record,
        0,
        MAGIC,
        FORMAT_VERSION,
        _BODY_CHECKSUM.unpack_from(record, _VERSION.size)[0],
        len(record) - HEADER_BYTES,
        *_record_sizes(header.sizes),
        bytes.fromhex(header.fingerprint),
        header.written_at,
        header.event_count,
        header.calls,
        header.ring,
    )
    _CHECKSUM.pack_into(record, _HEADER.size, _header_checksum(record, user_id))


def parse_header(raw: Buffer, user_id: bytes) -> Header | Damage:
    """Read a header; `raw` may end with it. Another format version is MODEL_MISMATCH, anything else amiss DAMAGED."""
    if len(raw) < HEADER_BYTES:
        return StateStatus.DAMAGED
    magic, version = _VERSION.unpack_from(raw)
    if magic != MAGIC:
        return StateStatus.DAMAGED
    if version != FORMAT_VERSION:
        return StateStatus.MODEL_MISMATCH
    if _CHECKSUM.unpack_from(raw, _HEADER.size)[0] != _header_checksum(raw, user_id):
        return StateStatus.DAMAGED
    fields = _HEADER.unpack_from(raw)
    return Header(
        sizes=_sizes_of(fields[4:10]),
        fingerprint=fields[10].hex(),
        written_at=fields[11],
        event_count=fields[12],
        calls=fields[13],
        ring=fields[14],
    )


def parse_state(raw: Buffer, header: Header) -> State | None:
    """Copy the arrays out of a record; None when they are damaged."""
    _, _, body_checksum, body_bytes = _HEADER.unpack_from(raw)[:4]
    if len(raw) != record_bytes(header.sizes) or body_bytes != len(raw) - HEADER_BYTES:
        return None
    body = np.frombuffer(raw, np.uint8, offset=HEADER_BYTES).copy()
    if crc32(body.data) != body_checksum:
        return None
    state: State = {slot.name: _array(body, slot) for slot in _layout(header.sizes)}
    return state if int(state[EVENT_COUNT.name][0]) == header.event_count else None


def _array(body: NDArray[np.uint8], slot: _Slot) -> NDArray[Any]:
    return body[slot.start : slot.stop].view(slot.dtype).reshape(slot.shape)


def _header_checksum(raw: Buffer, user_id: bytes) -> int:
    return crc32(user_id, crc32(memoryview(raw)[: _HEADER.size]))
