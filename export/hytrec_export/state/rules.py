"""Whether a write may go in, and what it makes of a user's records: the same for every engine."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import add

from hytrec.contract import StateStatus
from hytrec.signature import UNCHECKED_EVENT_COUNT
from hytrec_export.errors import StateStoreError
from hytrec_export.state.applied_requests import NO_REQUEST, AppliedRequests, TooManyClientsError
from hytrec_export.state.engine import Burial, UserChange, UserRecords
from hytrec_export.state.event_codec import append_events, encode_events
from hytrec_export.state.events import EventBytes, KeyTypes, StoredEvents, digest_of
from hytrec_export.state.head import CHUNK_EVENTS, INCARNATION_BYTES, Chunk, Head, remember_written, unpack_head
from hytrec_export.state.snapshot import SnapshotHeader
from hytrec_export.state.store import NO_REVISION, Outcome, UserAppend, UserWrite, WriteResult


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
        return self._decided(write, records, usable if isinstance(usable, Head) else None)

    def _decided(
        self, write: UserWrite, records: UserRecords, head: Head | None
    ) -> tuple[WriteResult, UserChange | None]:
        revision, count = (head.revision, head.event_count) if head else (NO_REVISION, 0)
        applied = head.applied if head else self.applied(write.user_id, records)
        known = write.request_id != NO_REQUEST and write.request_id in applied
        if (write.revision, write.event_count) != (revision, count) or known:
            return WriteResult(outcome=Outcome.CONFLICT, event_count=count, revision=revision), None
        try:
            kept = None if write.replace else head
            written, change = self._change(write, kept, applied=applied, first=write.first if kept else 0)
        except TooManyClientsError:
            return WriteResult(outcome=Outcome.CROWDED, event_count=count, revision=revision), None
        return WriteResult(outcome=Outcome.WRITTEN, event_count=written.event_count, revision=written.revision), change

    def append(
        self, new: UserAppend, records: UserRecords, header: SnapshotHeader | None, *, every: int, may_wait: bool
    ) -> tuple[WriteResult, UserChange | None] | None:
        """Events at the end of a sound history; None where more is to be known or done.

        That is: an unusable head or none, another number of events than expected, a snapshot that cannot wait, a write
        that is refused.

        Args:
            header: of the snapshot there seems to be; one that is gone or old only makes the next one late or early.
            every: events after which a snapshot is due.
            may_wait: whether one that is due may be made afterwards.
        """
        head = self.usable(new.user_id, records.head)
        if not isinstance(head, Head):
            return None
        if new.request_id in head.applied:
            return WriteResult(outcome=Outcome.REPLAYED, event_count=head.event_count, revision=head.revision), None
        if new.expected_event_count not in (UNCHECKED_EVENT_COUNT, head.event_count):
            return None
        due = head.event_count + len(new.events) - absorbed(head, header) >= every
        if due and not may_wait:
            return None
        try:
            written, change = self._change(new, head, applied=head.applied)
        except (StateStoreError, TooManyClientsError):
            return None
        result = WriteResult(
            outcome=Outcome.WRITTEN, event_count=written.event_count, revision=written.revision, due=due
        )
        return result, change

    def _change(
        self, new: UserWrite | UserAppend, head: Head | None, *, applied: AppliedRequests, first: int = 0
    ) -> tuple[Head, UserChange]:
        """The head after more events, and what to store for it.

        Args:
            head: None where the events become the whole history.
            applied: before them.
            first: events at the start that cannot be used any more.

        Raises:
            StateStoreError: the head holds other events than it says.
            TooManyClientsError: see `AppliedRequests`.
        """
        now_s = int(self.clock())
        applied = applied.following(new.request_id, now_s)
        written, closed = _extended(head, new.events, applied, now_s, types=self.types)
        first = max(written.first, first, self._first_kept(written))
        if first > written.first:
            written = replace(written, first=first)
        keep_from = first // CHUNK_EVENTS
        packed = written.pack(new.user_id)
        remember_written(packed, new.user_id, written)
        change = UserChange(
            head=packed,
            closed={number: raw for number, raw in closed.items() if number >= keep_from},
            fresh=head is None,
            keep_from=keep_from if first > (head.first if head else 0) else 0,
        )
        return written, change

    def _first_kept(self, head: Head) -> int:
        """The first event that a history keeps: of whole chunks, never of the open one."""
        surplus = head.event_count - self.max_events
        return min(max(0, surplus) // CHUNK_EVENTS * CHUNK_EVENTS, head.open_start)


def absorbed(head: Head, header: SnapshotHeader | None) -> int:
    """Events that a snapshot, if it is what it seems to be, has absorbed; the first one stored without it."""
    if header and header.incarnation == head.incarnation and head.first <= header.event_count <= head.event_count:
        return header.event_count
    return head.first


def _unbury(tombstone: bytes) -> AppliedRequests:
    try:
        return AppliedRequests.unpack(tombstone, 0)[0]
    except struct.error:
        return AppliedRequests()


def _extended(
    head: Head | None, events: StoredEvents, applied: AppliedRequests, now_s: int, *, types: KeyTypes
) -> tuple[Head, dict[int, bytes]]:
    """The head after more events, whose `first` is still that of before, and the chunks that closed."""
    incarnation = os.urandom(INCARNATION_BYTES) if head is None else head.incarnation
    chunk_digest = incarnation if head is None else head.chunk_digest
    event_count = (0 if head is None else head.event_count) + len(events)
    closed: dict[int, bytes] = {}
    decoded: StoredEvents | None = None
    if head is not None and 0 < head.event_count % CHUNK_EVENTS < CHUNK_EVENTS - len(events):
        before, more = head.columns or head.open_chunk.columns(), events.columns()
        columns: EventBytes = tuple(map(add, before, more))
        appended = append_events(head.open_raw, events)
        if appended is None:  # strings mostly: the next append needs them all again
            decoded = StoredEvents.joined([head.open_chunk, events])
            appended = encode_events(decoded)
        open_raw = appended
    else:
        number = 0 if head is None else head.event_count // CHUNK_EVENTS
        pending = events if head is None else StoredEvents.joined([head.open_chunk, events])
        while len(pending) >= CHUNK_EVENTS:
            chunk = Chunk(start_digest=chunk_digest, events=pending[:CHUNK_EVENTS])
            closed[number] = chunk.pack()
            chunk_digest = chunk.end_digest
            number, pending = number + 1, pending[CHUNK_EVENTS:]
        columns, open_raw = pending.columns(), encode_events(pending)
    open_count = event_count % CHUNK_EVENTS
    extended = Head(
        incarnation=incarnation,
        event_count=event_count,
        first=0 if head is None else head.first,
        digest=digest_of(chunk_digest, open_count, columns) if open_count else chunk_digest,
        chunk_digest=chunk_digest,
        written_at=now_s,
        applied=applied,
        open_raw=open_raw,
        types=types,
        columns=columns,
        decoded=decoded,
    )
    return extended, closed
