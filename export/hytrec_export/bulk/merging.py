"""What of a log is put before and after the events that the store has of a user.

The store is right about the time that it covers, from its first event of the user to its last: of the log the events
before and after that time are taken. At the very first and the very last second, which may be a whole day where a log
tells no more, those are taken that the store has not. So nothing is doubled, and a second run finds nothing to do.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hytrec_export.state.events import StoredEvents

Event: TypeAlias = tuple[object, object, int]


def missing_events(
    logged: StoredEvents, stored: StoredEvents, *, truncated: bool = False
) -> tuple[StoredEvents, StoredEvents]:
    """Events of a log to put before those that are stored, and after them.

    Args:
        stored: one event at least, in order of arrival.
        truncated: whether older events were dropped; then none are put before, nor into the last second where it is
            the first, too.
    """
    first, last = int(stored.times.min()), int(stored.times.max())
    before, after = logged.times < first, logged.times > last
    for second in {first, last}:
        found = np.flatnonzero(logged.times == second)
        if len(found):
            (before if second == first and (truncated or first < last) else after)[found] = _new(
                _events(logged, found), _at(stored, second)
            )
    if truncated:
        before[:] = False
    return _taken(logged, before), _taken(logged, after)


def _at(events: StoredEvents, second: int) -> list[Event]:
    return _events(events, np.flatnonzero(events.times == second))


def _events(events: StoredEvents, places: NDArray[np.int64]) -> list[Event]:
    return [
        (
            events.item_keys[place],
            events.behavior_keys[place] if events.has_behavior[place] else None,
            int(events.times[place]),
        )
        for place in places
    ]


def _new(logged: list[Event], stored: list[Event]) -> list[bool]:
    """Which events are not among those stored, each of which stands for one."""
    left = Counter(stored)
    new = []
    for event in logged:
        new.append(left[event] <= 0)
        left[event] -= 1
    return new


def _taken(events: StoredEvents, places: NDArray[np.bool_]) -> StoredEvents:
    return StoredEvents(
        item_keys=events.item_keys[places],
        behavior_keys=events.behavior_keys[places],
        has_behavior=events.has_behavior[places],
        times=events.times[places],
    )
