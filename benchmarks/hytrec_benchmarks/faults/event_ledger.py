"""Which events were sent, which were acknowledged, and which of them the state store holds, in what order.

Every event has a timestamp of its own, so the stored histories name what was applied, and in which order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec_clients import Events, Receipt
from hytrec_export.state.history import History as StoredHistory

FIRST_TIME_S = 1_500_000_000
UNKNOWN_KEY = 2**62
"""No log has this item."""
STEP_S = 40
MAX_EVENTS = 3
"""Largest number of events of one write, but for a backfill."""
IDLE_S = 600
"""Time between the newest event and a query."""

Key = Any
"""An item key as the vocabulary has it: int or bytes."""


class Histories(Protocol):
    """What the ledger reads of a store."""

    def history(self, user_id: bytes) -> StoredHistory | None:
        """A user's stored events; None where there are none."""


@dataclass
class UserEvents:
    """One user's events by timestamp.

    Args:
        keys: item key of every event sent.
        acknowledged: events whose write was acknowledged and that are not yet counted as lost.
        order: timestamp of the event at each index of the history, as far as a receipt or the store named it.
        count: events the store was last seen to hold.
        closed: the store is not read any more for this user.
    """

    keys: dict[int, Key] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    order: dict[int, int] = field(default_factory=dict)
    count: int = 0
    closed: bool = False

    @property
    def held(self) -> list[int]:
        """Timestamps of the events in the store, oldest first; those that were never seen are missing."""
        return [self.order[index] for index in range(self.count) if index in self.order]

    @property
    def unconfirmed(self) -> int:
        """Events sent that the store was not yet seen to hold."""
        return len(self.keys) - self.count


class EventLedger:
    """Draws events and records what became of them. For one thread or one event loop; `Writers` shares it by a lock.

    Args:
        item_keys: what events are made of.

    Attributes:
        lost: acknowledged events that the store does not hold.
        misplaced: events at an index where a receipt or an earlier read has another one.
        unknown: events that nobody sent.
    """

    def __init__(self, users: Sequence[str], *, item_keys: Sequence[Key], seed: int) -> None:
        self.users = {user: UserEvents() for user in users}
        self.item_keys = item_keys
        self.lost = 0
        self.misplaced = 0
        self.unknown = 0
        self._random = random.Random(seed)  # noqa: S311 - items of events
        self._last_time = FIRST_TIME_S

    def draw(self, user: str, count: int) -> Events:
        """New events of a user, who may be new."""
        keys = self.users.setdefault(user, UserEvents()).keys
        first = self._last_time + STEP_S
        self._last_time += count * STEP_S
        times = range(first, self._last_time + 1, STEP_S)
        keys.update((time, self._random.choice(self.item_keys)) for time in times)
        return Events([keys[time] for time in times], times)

    def now(self) -> int:
        """When a query is made, unix seconds."""
        return self._last_time + IDLE_S

    def acknowledge(self, user: str, events: Events, receipt: Receipt) -> None:
        """Record the receipt of a write."""
        own, times = self.users[user], [int(time) for time in events.times]
        own.acknowledged.update(times)
        if receipt.applied:
            self._record(own, receipt.event_count - len(times), times)

    def close(self, user: str, events: Events) -> None:
        """Record the whole history of a user whom nobody else writes to, and whose state will be deleted."""
        own, times = self.users[user], [int(time) for time in events.times]
        self._record(own, 0, times)
        own.count, own.closed = len(times), True

    def read(self, store: Histories) -> None:
        """Record what the store holds, and count acknowledged events that it does not hold."""
        for user, own in self.users.items():
            if own.closed:
                continue
            found = store.history(user.encode())
            own.count = found.event_count if found else 0
            for index in range(own.count, max(own.order, default=0) + 1):  # a state that was set back
                own.order.pop(index, None)
            times = found.events.times.tolist() if found else []
            self._record(own, own.count - len(times), times)
            own.order.update(
                enumerate(times, start=own.count - len(times))
            )  # the store is right, whatever a receipt said
            missing = own.acknowledged - set(own.order.values())
            self.lost += len(missing)
            own.acknowledged -= missing  # counted once

    def faults(self) -> Counter[str]:
        """Number of events by fault, as of the last read; all are 0 for a sound store.

        "twice" is for events that were applied more than once, "unseen" for those that neither store nor receipt named.
        """
        faults = Counter(lost=self.lost, misplaced=self.misplaced, unknown=self.unknown, twice=0, unseen=0)
        for own in self.users.values():
            held = own.held
            faults["unseen"] += own.count - len(held)
            faults["twice"] += len(held) - len(set(held))
        return faults

    def history(self, user: str, events: int, vocabulary: Vocabulary) -> History | None:
        """The first events of a user in the order in which they were applied; None where one was never seen."""
        own = self.users[user]
        times = [own.order.get(index, 0) for index in range(events)]
        if not own.keys.keys() >= set(times):
            return None
        items = vocabulary.item_rows([own.keys[time] for time in times]) if times else np.zeros(0, np.int64)
        return History(item_rows=items, behavior_rows=items * 0, times=np.array(times, np.int64))

    def _record(self, own: UserEvents, start: int, times: Sequence[int]) -> None:
        for index, time in enumerate(times, start=start):
            self.misplaced += own.order.setdefault(index, time) != time
            self.unknown += time not in own.keys
