"""Writes users' logged events into a store, by compare-and-set: a server may serve it meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from hytrec_export.bulk.keeping import StateKeeper
from hytrec_export.bulk.logged_users import LoggedUser
from hytrec_export.bulk.merging import missing_events
from hytrec_export.errors import StateConflictError, StoreFullError
from hytrec_export.state.applied_requests import NO_REQUEST
from hytrec_export.state.engine import UserRecords
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.history import History
from hytrec_export.state.store import NO_REVISION, Outcome, UserWrite
from hytrec_export.state.users import StateStore

_TRIES = 50
"""For users whom a server writes meanwhile."""
_WRITE_USERS, _WRITE_EVENTS = 64, 1 << 15
"""Users and events of one transaction: a server's requests wait for its end."""
OUTCOMES = ("new", "merged", "continued", "unchanged", "forgotten", "expired")


class UserFiller:
    """Brings users' logged events into a store, and keeps their states.

    Args:
        counts: users by outcome: `new`; `merged`, with events before those of the store; `continued`, with events after
            them alone; `unchanged`; `forgotten` and `expired`, left out. `written` counts events; the names of
            `StateKeeper` are counted too. Added to.
    """

    def __init__(self, store: StateStore, keeper: StateKeeper, *, counts: Counter[str]) -> None:
        self._histories = store.histories
        self._keeper = keeper
        self._counts = counts

    def fill(self, page: Sequence[LoggedUser]) -> None:
        """Write users' events, then the states of all of them. It may be interrupted, and done again.

        Raises:
            StoreFullError: there is no room for a user, or for states.
            StateConflictError: a server has written a user again and again meanwhile.
            StoreUnavailableError: the store fails.
        """
        left = list(page)
        stored: list[bytes] = []
        for _ in range(_TRIES):
            again: list[LoggedUser] = []
            for some in _parts(left):
                again += self._write(some, stored)
            left = again
            if not left:
                break
        else:
            raise StateConflictError(
                f"{len(left)} users were written by others {_TRIES} times in a row, the first is "
                f"{left[0].user_id.decode(errors='backslashreplace')!r}; run this again: it goes on where it was"
            )
        self._keeper.keep(stored)

    def _write(self, users: Sequence[LoggedUser], stored: list[bytes]) -> list[LoggedUser]:
        """Write users, and put those who are in the store into `stored`; whom others wrote meanwhile."""
        ids = [user.user_id for user in users]
        found = self._histories.histories(ids)
        forgotten = self._histories.engine.forgotten_at(ids)
        writes: list[tuple[LoggedUser, str, UserWrite]] = []
        for user, (records, history), at in zip(users, found, forgotten, strict=True):
            outcome, write = self._decided(user, records, history, at)
            if write is not None:
                writes.append((user, outcome, write))
                continue
            self._counts[outcome] += 1
            if history is not None:
                stored.append(user.user_id)
            else:
                self._keeper.pass_over(1)
        again: list[LoggedUser] = []
        results = self._histories.write_many([write for *_, write in writes])
        for (user, outcome, write), result in zip(writes, results, strict=True):
            if result.outcome is Outcome.FULL:
                raise StoreFullError(
                    "the state store is full; raise the size limit of its server (Redis: maxmemory), or delete users "
                    "with: hytrec-export state delete; then run this again: it goes on where it was"
                )
            if result.outcome is Outcome.WRITTEN:
                self._counts[outcome] += 1
                self._counts["written"] += max(0, result.event_count - (0 if outcome == "new" else write.event_count))
                stored.append(user.user_id)
            else:
                again.append(user)
        return again

    def _decided(
        self, user: LoggedUser, records: UserRecords, history: History | None, forgotten_at: int
    ) -> tuple[str, UserWrite | None]:
        """An outcome, and the write that leads to it."""
        events = user.events
        if _is_buried(records):
            return "forgotten", None
        if forgotten_at:
            start = int(np.searchsorted(events.times, forgotten_at, side="right"))
            if start == len(events) and history is None:
                return "forgotten", None
            events = events[start:]
        if history is None:
            if self._histories.rules.expired(int(events.times[-1])):
                return "expired", None
            return "new", self._replacing(user.user_id, NO_REVISION, 0, events)
        head = history.head
        truncated = head.first > 0 and not history.damaged
        before, after = events, events[:0]  # where nothing of a damaged history can be used
        if len(history.events):
            before, after = missing_events(events, history.events, truncated=truncated)
        if len(before):
            merged = StoredEvents.joined([before, history.events, after])
            return "merged", self._replacing(user.user_id, head.revision, head.event_count, merged)
        if not len(after):
            return "unchanged", None
        write = UserWrite(
            user_id=user.user_id,
            request_id=NO_REQUEST,
            revision=head.revision,
            event_count=head.event_count,
            events=after,
            first=history.start if history.damaged else 0,
        )
        return "continued", write

    def _replacing(self, user_id: bytes, revision: bytes, event_count: int, events: StoredEvents) -> UserWrite:
        return UserWrite(
            user_id=user_id,
            request_id=NO_REQUEST,
            revision=revision,
            event_count=event_count,
            events=events,
            replace=True,
        )


def _is_buried(records: UserRecords) -> bool:
    """Whether a user was forgotten within the last day, and has not come back."""
    return records.tombstone is not None


def _parts(users: Sequence[LoggedUser]) -> Iterator[list[LoggedUser]]:
    part: list[LoggedUser] = []
    events = 0
    for user in users:
        if part and (len(part) == _WRITE_USERS or events + len(user.events) > _WRITE_EVENTS):
            yield part
            part, events = [], 0
        part.append(user)
        events += len(user.events)
    if part:
        yield part
