"""How much of a user a request reads: the head alone, the state and the events since, or everything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec_export.state.engine import UserRecords
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.head import Head
from hytrec_export.state.history import History, chunks_from
from hytrec_export.state.rules import HistoryRules, absorbed
from hytrec_export.state.snapshot import SnapshotHeader
from hytrec_export.state.store import StoredUser, UserRead


@dataclass(kw_only=True, eq=False)
class ReadPlan:
    """One user's read: decided when the head is seen.

    Args:
        header: of the snapshot there seems to be of this model.
        state: its tensors, where they are at hand.
        kept: events of the snapshot that is stored; those of `header` where None.
        window: W.
        every: events after which a snapshot is due.
        limit: events without one from which on its absence is told.
        max_gap: see `StateStore.read_many`.
    """

    read: UserRead
    header: SnapshotHeader | None
    state: dict[str, NDArray[Any]] | None
    kept: int | None
    rules: HistoryRules
    window: int
    every: int
    limit: int
    max_gap: int | None
    complete: bool = field(default=False, init=False)
    _head: Head | StateStatus = field(default=StateStatus.NEW, init=False)
    _wanted: range = field(default=range(0), init=False)

    def chunks(self, raw: bytes) -> range:
        """Numbers of the closed chunks to read of a user with this head."""
        head = self._head = self.rules.usable(self.read.user_id, raw)
        self.complete, self._wanted = False, range(0)
        if not isinstance(head, Head):
            return self._wanted
        gap = head.event_count - absorbed(head, self.header)
        needed = not self.read.append_only or self._due(head, self._kept(head))
        self.complete = needed and (self.max_gap is None or gap <= self.max_gap)
        if self.complete:
            self._wanted = chunks_from(head, max(head.first, absorbed(head, self.header) - self.window))
        return self._wanted

    def absent(self, records: UserRecords) -> StoredUser | None:
        """The user where there is no usable head; None where there is one."""
        if records.head is None:
            self._head = StateStatus.NEW
        if isinstance(self._head, Head):
            return None
        replayed = self.read.request_id in self.rules.applied(self.read.user_id, records)
        none = StoredEvents.none(self.rules.types)
        due = not replayed and self.read.events >= self.every
        return StoredUser(status=self._head, events=none, replayed=replayed, due=due)

    def history(self, records: UserRecords) -> History:
        """The events that were read; there is a head."""
        return History.read(self._sound, records.chunks, self.rules.types, self._wanted)

    def partial(self) -> StoredUser:
        """The user of whom no state was read."""
        head = self._sound
        replayed = self.read.request_id in head.applied
        base, kept = absorbed(head, self.header), self._kept(head)
        return StoredUser(
            status=StateStatus.FOUND,
            events=StoredEvents.none(self.rules.types),
            revision=head.revision,
            event_count=head.event_count,
            replayed=replayed,
            first=head.first,
            base=base,
            start=head.event_count,
            complete=False,
            kept=kept,
            due=self._due(head, kept),
        )

    def user(
        self, history: History, snapshot: SnapshotHeader | None, state: dict[str, NDArray[Any]] | None
    ) -> StoredUser:
        """The user with a state after `snapshot.event_count` events, or none."""
        head = history.head
        first = history.start if history.damaged else head.first
        base = snapshot.event_count if snapshot else first
        status = StateStatus.FOUND
        if history.damaged:
            status = StateStatus.DAMAGED
        elif snapshot is None and head.event_count - first >= self.limit:
            status = StateStatus.TRUNCATED if first else StateStatus.REBUILT
        replayed = self.read.request_id in head.applied
        kept = base if self.kept is None or snapshot is None else min(self.kept, base)
        return StoredUser(
            status=status,
            events=history.events,
            revision=head.revision,
            event_count=head.event_count,
            replayed=replayed,
            first=first,
            base=base,
            state=state,
            start=history.start,
            kept=kept,
            due=self._due(head, kept),
        )

    @property
    def _sound(self) -> Head:
        if isinstance(self._head, Head):
            return self._head
        raise TypeError(self._head)

    def _kept(self, head: Head) -> int:
        base = absorbed(head, self.header)
        return base if self.kept is None or base == head.first else min(self.kept, base)

    def _due(self, head: Head, kept: int) -> bool:
        new = 0 if self.read.request_id in head.applied else self.read.events
        return head.event_count + new - kept >= self.every
