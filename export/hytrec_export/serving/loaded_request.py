"""One valid request and its user, as rows of the model's tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hytrec.data.vocabulary import Vocabulary
from hytrec_export.serving.stored_state import EventRows, first_needed
from hytrec_export.serving.validation import Keys, ValidatedRequest
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.store import StoredUser, UserRead

ItemRows: TypeAlias = NDArray[np.int64]
NO_ROWS: ItemRows = np.empty(0, np.int64)
_NO_EVENTS = EventRows(items=NO_ROWS, behaviors=NO_ROWS, times=NO_ROWS)


@dataclass
class LoadedRequest:
    """One valid request and its user, both as rows: (T,), (T,) or (0,), (N,) and (X,) int64.

    Args:
        history: the user's stored events from `first_needed` on.
    """

    request: ValidatedRequest
    read: UserRead
    user: StoredUser
    history: EventRows
    item_rows: ItemRows
    behavior_rows: ItemRows
    candidate_rows: ItemRows
    excluded_rows: ItemRows

    @property
    def events(self) -> int:
        """Events to apply."""
        return 0 if self.user.replayed else len(self.request.times)

    @property
    def before(self) -> EventRows:
        """Events that the state has absorbed."""
        return self.history[: len(self.history) - self.user.gap]

    @property
    def gap(self) -> EventRows:
        """Stored events that it has not absorbed."""
        return self.history[len(self.history) - self.user.gap :]

    @property
    def ahead(self) -> EventRows:
        """The gap, and the events to apply."""
        if not self.events:
            return self.gap
        columns = zip(self.gap.columns(), self.new_columns(), strict=True)
        items, behaviors, times = (np.concatenate([old, new[: self.events]]) for old, new in columns)
        return EventRows(items=items, behaviors=behaviors, times=times)

    def blind(self, unknown_row: int) -> bool:
        """Whether an item of the user's events, with those to apply, is unknown."""
        return self.user.blind or any(
            bool((items == unknown_row).any()) for items in (self.gap.items, self.item_rows[: self.events])
        )

    def new_columns(self) -> tuple[ItemRows, ItemRows, ItemRows]:
        """Rows and times of the request's events, in the order of `EVENT_ROWS`."""
        behaviors = self.behavior_rows if len(self.behavior_rows) else np.zeros(len(self.item_rows), np.int64)
        return self.item_rows, behaviors, self.request.times


def map_requests(
    requests: Sequence[ValidatedRequest],
    users: Sequence[StoredUser],
    reads: Sequence[UserRead],
    vocabulary: Vocabulary,
    *,
    window: int,
) -> list[LoadedRequest]:
    """Rows of every request and its user's events, each kind of key mapped in one look-up."""
    items, behaviors = vocabulary.item_rows, vocabulary.behavior_rows
    histories = stored_rows(users, vocabulary, window=window)
    columns = (
        mapped(items, [request.item_keys for request in requests]),
        mapped(behaviors, [request.behavior_keys for request in requests]),
        mapped(items, [NO_ROWS if keys is None else keys for keys in (r.candidate_keys for r in requests)]),
        mapped(items, [request.excluded_keys for request in requests]),
    )
    return [
        LoadedRequest(request, read, user, history, *rows)
        for request, read, user, history, *rows in zip(requests, reads, users, histories, *columns, strict=True)
    ]


def stored_rows(users: Sequence[StoredUser], vocabulary: Vocabulary, *, window: int) -> list[EventRows]:
    """Rows of every user's stored events from `first_needed` on, each kind of key mapped in one look-up."""
    if not any(len(user.events) for user in users):
        return [_NO_EVENTS] * len(users)
    stored = [user.events[first_needed(user, window) - user.start :] for user in users]
    items = mapped(vocabulary.item_rows, [events.item_keys for events in stored])
    behaviors = _stored_behaviors(stored, vocabulary)
    return [
        EventRows(items=rows, behaviors=behavior_rows, times=events.times)
        for rows, behavior_rows, events in zip(items, behaviors, stored, strict=True)
    ]


def _stored_behaviors(stored: Sequence[StoredEvents], vocabulary: Vocabulary) -> list[ItemRows]:
    if not any(np.count_nonzero(events.has_behavior) for events in stored):
        return [np.zeros(len(events), np.int64) for events in stored]
    rows = mapped(vocabulary.behavior_rows, [events.behavior_keys for events in stored])
    return [np.where(events.has_behavior, own, 0) for events, own in zip(stored, rows, strict=True)]


def mapped(rows_of: Callable[[Keys], ItemRows], keys: Sequence[Keys]) -> list[ItemRows]:
    """Rows of many short key arrays in one look-up."""
    ends = [0, *accumulate(map(len, keys))]
    if not ends[-1]:
        return [NO_ROWS] * len(keys)
    rows = rows_of(keys[0] if len(keys) == 1 else np.concatenate(keys))
    return [rows[start:stop] for start, stop in pairwise(ends)]
