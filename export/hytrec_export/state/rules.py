"""Whether a write may go in, and what it makes of a user's records: the same for every engine."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hytrec.contract import StateStatus
from hytrec_export.state.applied_requests import NO_REQUEST, AppliedRequests, TooManyClientsError
from hytrec_export.state.engine import Burial, UserChange, UserRecords
from hytrec_export.state.event_codec import encode_events
from hytrec_export.state.events import KeyTypes, StoredEvents
from hytrec_export.state.head import CHUNK_EVENTS, INCARNATION_BYTES, Chunk, Head, unpack_head
from hytrec_export.state.store import NO_REVISION, Outcome, UserWrite, WriteResult


@dataclass
class Expiry:
    """Whether users expire at all; see `sweep`."""

    off: bool = False


@dataclass(frozen=True, kw_only=True)
class HistoryRules:
    """Limits of a history, and the clock.

    Args:
        ttl_s: users not written for so long are expired; None = never.
        max_events: of a history; older chunks go.
        clock: unix seconds.
        expiry: while it is off, nobody has expired.
    """

    types: KeyTypes
    ttl_s: int | None
    max_events: int
    clock: Callable[[], float] = time.time
    expiry: Expiry = field(default_factory=Expiry)

    def usable(self, user_id: bytes, raw: bytes | None) -> Head | StateStatus:
        """A head, or why it is not to be used: NEW, DAMAGED or EXPIRED."""
        if raw is None:
            return StateStatus.NEW
        head = unpack_head(raw, user_id, self.types)
        if head is None:
            return StateStatus.DAMAGED
        return StateStatus.EXPIRED if self.expired(head.written_at) and not self.expiry.off else head

    def judged(self, user_id: bytes, raw: bytes) -> StateStatus:
        """What a head would be if expiry were on: FOUND, DAMAGED or EXPIRED."""
        head = unpack_head(raw, user_id, self.types)
        if head is None:
            return StateStatus.DAMAGED
        return StateStatus.EXPIRED if self.expired(head.written_at) else StateStatus.FOUND

    def expired(self, written_at: int) -> bool:
        """Whether a last write is too long ago; one by a clock ahead of ours is not."""
        return self.ttl_s is not None and written_at + self.ttl_s <= self.clock()

    def applied(self, user_id: bytes, records: UserRecords) -> AppliedRequests:
        """Requests known of a user, also of one who is expired or forgotten."""
        if records.head is not None:
            head = unpack_head(records.head, user_id, self.types)
            return head.applied if head else AppliedRequests()
        return AppliedRequests() if records.tombstone is None else _unbury(records.tombstone)

    def bury(self, user_id: bytes, records: UserRecords, *, noted: bool) -> Burial:
        """What is left of a user.

        Args:
            noted: whether a restored backup, too, is to hold nothing of the user.
        """
        head = None if records.head is None else unpack_head(records.head, user_id, self.types)
        now_s = max(int(self.clock()), head.written_at if head else 0)  # the clock may have been set back
        return Burial(tombstone=self.applied(user_id, records).pack(), noted_at=now_s if noted else None)

    def decide(self, write: UserWrite, records: UserRecords) -> tuple[WriteResult, UserChange | None]:
        """Compare-and-set."""
        usable = self.usable(write.user_id, records.head)
        head = usable if isinstance(usable, Head) else None
        revision, count = (head.revision, head.event_count) if head else (NO_REVISION, 0)
        applied = head.applied if head else self.applied(write.user_id, records)
        known = write.request_id != NO_REQUEST and write.request_id in applied
        if (write.revision, write.event_count) != (revision, count) or known:
            return WriteResult(outcome=Outcome.CONFLICT, event_count=count, revision=revision), None
        now_s = int(self.clock())
        try:
            applied = applied.following(write.request_id, now_s)
        except TooManyClientsError:
            return WriteResult(outcome=Outcome.CROWDED, event_count=count, revision=revision), None
        fresh = head is None or write.replace
        following, closed = _extended(None if fresh else head, write.events, types=self.types)
        first = max(following.first, 0 if fresh else write.first, self._first_kept(following))
        written = Head(
            incarnation=following.incarnation,
            event_count=following.event_count,
            first=first,
            digest=following.digest,
            chunk_digest=following.chunk_digest,
            written_at=now_s,
            applied=applied,
            open_raw=following.open_raw,
            types=self.types,
        )
        keep_from = first // CHUNK_EVENTS
        change = UserChange(
            head=written.pack(write.user_id),
            closed={number: raw for number, raw in closed.items() if number >= keep_from},
            fresh=fresh,
            keep_from=keep_from if first > (0 if fresh or head is None else head.first) else 0,
        )
        result = WriteResult(outcome=Outcome.WRITTEN, event_count=written.event_count, revision=written.revision)
        return result, change

    def _first_kept(self, head: Head) -> int:
        """The first event that a history keeps: of whole chunks, never of the open one."""
        surplus = head.event_count - self.max_events
        return min(max(0, surplus) // CHUNK_EVENTS * CHUNK_EVENTS, head.open_start)


def _unbury(tombstone: bytes) -> AppliedRequests:
    try:
        return AppliedRequests.unpack(tombstone, 0)[0]
    except struct.error:
        return AppliedRequests()


def _extended(head: Head | None, events: StoredEvents, *, types: KeyTypes) -> tuple[Head, dict[int, bytes]]:
    """The head after more events, its request and time still those of before, and the chunks that closed."""
    if head is None:
        incarnation = os.urandom(INCARNATION_BYTES)
        head = Head(
            incarnation=incarnation,
            event_count=0,
            first=0,
            digest=incarnation,
            chunk_digest=incarnation,
            written_at=0,
            applied=AppliedRequests(),
            open_raw=b"",
            types=types,
        )
        pending = events
    else:
        pending = StoredEvents.joined([head.open_chunk, events]) if head.event_count % CHUNK_EVENTS else events
    number, digest = head.open_start // CHUNK_EVENTS, head.chunk_digest
    closed: dict[int, bytes] = {}
    while len(pending) >= CHUNK_EVENTS:
        chunk = Chunk(start_digest=digest, events=pending[:CHUNK_EVENTS])
        closed[number] = chunk.pack()
        digest = chunk.events.digest(digest)
        number, pending = number + 1, pending[CHUNK_EVENTS:]
    extended = Head(
        incarnation=head.incarnation,
        event_count=number * CHUNK_EVENTS + len(pending),
        first=head.first,
        digest=pending.digest(digest) if len(pending) else digest,
        chunk_digest=digest,
        written_at=head.written_at,
        applied=head.applied,
        open_raw=encode_events(pending),
        types=types,
    )
    return extended, closed
