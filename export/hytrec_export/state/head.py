"""A user's head: how many events there are, what stands for them, and the events of the open chunk.

    offset  bytes  field (little-endian)
         0      4  CRC-32 of what follows, then of the user id
         4      2  format version
         6      8  incarnation: random, made with the user
        14      8  event_count
        22      8  first event that is stored; 0 unless the history was cut, a multiple of `CHUNK_EVENTS` then
        30      8  digest of all events
        38      8  digest at the start of the open chunk
        46      8  last write, unix seconds
        54      -  requests that were applied (`applied_requests`)
                -  events of the open chunk (`event_codec`)

Event n stands in chunk n // `CHUNK_EVENTS`. All chunks but the open one are records of their own and never change.
The digest of no events is the incarnation, so that two users, or one user before and after a forget, share none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from isal.isal_zlib import crc32

from hytrec_export.errors import StateStoreError
from hytrec_export.state.applied_requests import AppliedRequests
from hytrec_export.state.event_codec import DamagedEventsError, decode_events, encode_events
from hytrec_export.state.events import DIGEST_BYTES, EventBytes, KeyTypes, StoredEvents

CHUNK_EVENTS = 128
HEAD_VERSION = 1
INCARNATION_BYTES = DIGEST_BYTES
_DECODED = 1_024
"""Heads, and chunks, that are remembered decoded: some 10 MB."""
_CHECKSUM = struct.Struct("<I")
_FIXED = struct.Struct(f"<H{INCARNATION_BYTES}sqq{DIGEST_BYTES}s{DIGEST_BYTES}sq")


@dataclass(kw_only=True, eq=False)
class Head:
    """What is kept of a user apart from closed chunks.

    Args:
        incarnation: 8 bytes; new after a forget or a replaced history.
        event_count: n; events first to n - 1 are stored.
        first: events that are not stored any more.
        digest: of all events.
        chunk_digest: at the start of the open chunk.
        written_at: unix seconds.
        applied: requests.
        open_raw: the events after the closed chunks, fewer than `CHUNK_EVENTS`, as `encode_events` writes them.
        types: of the keys.
        columns: of `open_chunk`, where they are at hand.
        decoded: `open_chunk`, where it is at hand.
    """

    incarnation: bytes
    event_count: int
    first: int
    digest: bytes
    chunk_digest: bytes
    written_at: int
    applied: AppliedRequests
    open_raw: bytes
    types: KeyTypes
    columns: EventBytes | None = field(default=None, repr=False)
    decoded: StoredEvents | None = field(default=None, repr=False)

    @property
    def revision(self) -> bytes:
        """Names the history: 16 bytes that another history does not have."""
        return self.incarnation + self.digest

    @property
    def open_start(self) -> int:
        """Number of the first event of the open chunk."""
        return self.event_count - self.event_count % CHUNK_EVENTS

    @cached_property
    def open_chunk(self) -> StoredEvents:
        """The events after the closed chunks.

        Raises:
            StateStoreError: they are not what the head says; its checksum would have told of damage.
        """
        if self.decoded is not None:
            return self.decoded
        try:
            events = decode_events(self.open_raw, self.types)
        except DamagedEventsError:
            events = StoredEvents.none(self.types)
        if len(events) != self.event_count % CHUNK_EVENTS:
            raise StateStoreError(
                "a user's head holds other events than it says; remove the user, then send the history"
            )
        return events

    def pack(self, user_id: bytes) -> bytes:
        """The head as bytes."""
        fixed = _FIXED.pack(
            HEAD_VERSION,
            self.incarnation,
            self.event_count,
            self.first,
            self.digest,
            self.chunk_digest,
            self.written_at,
        )
        body = fixed + self.applied.pack() + self.open_raw
        return _CHECKSUM.pack(crc32(user_id, crc32(body))) + body


_written: dict[tuple[bytes, bytes, KeyTypes], Head] = {}


@lru_cache(maxsize=_DECODED)
def unpack_head(raw: bytes, user_id: bytes, types: KeyTypes) -> Head | None:
    """What `Head.pack` wrote for this user; None where the bytes are damaged, or of a newer version.

    The last ones are remembered, see `drop_decoded`: a request reads its user's head more than once.
    """
    written = _written.pop((raw, user_id, types), None)
    if written:
        return written
    if len(raw) < _CHECKSUM.size + _FIXED.size:
        return None
    body = memoryview(raw)[_CHECKSUM.size :]
    if _CHECKSUM.unpack_from(raw)[0] != crc32(user_id, crc32(body)):
        return None
    version, incarnation, event_count, first, digest, chunk_digest, written_at = _FIXED.unpack_from(body)
    if version != HEAD_VERSION:
        return None
    try:
        applied, end = AppliedRequests.unpack(raw, _CHECKSUM.size + _FIXED.size)
    except struct.error:
        return None
    return Head(
        incarnation=incarnation,
        event_count=event_count,
        first=first,
        digest=digest,
        chunk_digest=chunk_digest,
        written_at=written_at,
        applied=applied,
        open_raw=raw[end:],
        types=types,
    )


def remember_written(raw: bytes, user_id: bytes, head: Head) -> None:
    """Have the head that `raw` stands for at hand: the user's next request reads these bytes."""
    if len(_written) >= _DECODED:
        _written.clear()
    _written[raw, user_id, head.types] = head


def open_chunk_digest(head: Head, event_count: int) -> bytes:
    """Digest of the first `event_count` events, the last of which stands in the open chunk or just before it."""
    if event_count == head.event_count:
        return head.digest
    part = head.open_chunk[: event_count - head.open_start]
    return part.digest(head.chunk_digest) if len(part) else head.chunk_digest


@dataclass(kw_only=True, eq=False)
class Chunk:
    """A closed chunk: `CHUNK_EVENTS` events, or fewer in a copy that ends early.

    Args:
        start_digest: of all events before.
    """

    start_digest: bytes
    events: StoredEvents

    def pack(self) -> bytes:
        """The chunk as bytes: the digest, then the events."""
        return self.start_digest + encode_events(self.events)

    @cached_property
    def end_digest(self) -> bytes:
        """Of all events up to the last one."""
        return self.events.digest(self.start_digest)


@lru_cache(maxsize=_DECODED)
def unpack_chunk(raw: bytes, types: KeyTypes) -> Chunk | None:
    """What `Chunk.pack` wrote; None where the bytes are damaged. The last ones are remembered, as heads are."""
    try:
        events = decode_events(raw[DIGEST_BYTES:], types)
    except DamagedEventsError:
        return None
    return Chunk(start_digest=raw[:DIGEST_BYTES], events=events) if len(events) == CHUNK_EVENTS else None


def drop_decoded() -> None:
    """Drop what is remembered of heads and chunks: a user may have been forgotten."""
    _written.clear()
    unpack_head.cache_clear()
    unpack_chunk.cache_clear()
