"""A user's events as read from head and chunks: the head has a checksum, its digests check the closed chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from hytrec_export.state.events import KeyTypes, StoredEvents
from hytrec_export.state.head import CHUNK_EVENTS, Chunk, Head, open_chunk_digest, unpack_chunk
from hytrec_export.state.snapshot import SnapshotHeader


@dataclass(kw_only=True, eq=False)
class History:
    """Events `start` to `head.event_count`.

    Args:
        start: number of the first event; a multiple of `CHUNK_EVENTS`.
        damaged: whether chunks before `start` were wanted and cannot be used.
    """

    head: Head
    start: int
    events: StoredEvents
    damaged: bool
    chunks: Mapping[int, Chunk]

    @property
    def event_count(self) -> int:
        """Events that the user has, those before `start` included."""
        return self.head.event_count

    @classmethod
    def read(cls, head: Head, raw: Mapping[int, bytes], types: KeyTypes, wanted: range) -> Self:
        """The longest run of events up to the last one that the digests confirm.

        Args:
            raw: the chunks found of those that were `wanted`, which end at the open one.
        """
        kept: dict[int, Chunk] = {}
        damaged = False
        end_digest: bytes | None = None
        for number in wanted:
            chunk = unpack_chunk(raw[number], types) if number in raw else None
            if chunk is None or (end_digest is not None and chunk.start_digest != end_digest):
                damaged = True
                kept.clear()
            end_digest = None if chunk is None else chunk.end_digest
            if chunk is not None:
                kept[number] = chunk
        if kept and end_digest != head.chunk_digest:
            kept.clear()
        damaged |= len(wanted) > 0 and not kept
        return cls(
            head=head,
            start=min(kept, default=head.open_start // CHUNK_EVENTS) * CHUNK_EVENTS,
            events=StoredEvents.joined([*(chunk.events for chunk in kept.values()), head.open_chunk]),
            damaged=damaged,
            chunks=kept,
        )

    def holds(self, snapshot: SnapshotHeader) -> bool:
        """Whether a snapshot is of this history."""
        count = snapshot.event_count
        return (
            snapshot.incarnation == self.head.incarnation
            and self.start <= count <= self.head.event_count
            and snapshot.digest == self._digest(count)
        )

    def _digest(self, count: int) -> bytes:
        """Of the first `count` events, `start` at least."""
        if count >= self.head.open_start:
            return open_chunk_digest(self.head, count)
        chunk = self.chunks[count // CHUNK_EVENTS]
        part = chunk.events[: count % CHUNK_EVENTS]
        return part.digest(chunk.start_digest) if len(part) else chunk.start_digest


def chunks_from(head: Head, event: int) -> range:
    """Numbers of the closed chunks from the one that an event stands in."""
    return range(event // CHUNK_EVENTS, head.open_start // CHUNK_EVENTS)
