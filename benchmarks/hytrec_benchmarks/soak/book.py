"""What was sent, what was acknowledged, where the store was seen to hold it; and answers to be checked later.

Every event of a user has a time of its own, so that a window of a state names the events in it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import WINDOW_TIMES
from hytrec_clients import Events, Receipt
from hytrec_export.state.store import StateStore

FIRST_TIME_S = 1_500_000_000
STEP_S = 40
IDLE_S = 600
"""Time between the newest event and a question."""

Key = Any
"""An item key as the vocabulary has it: int or bytes; as an answer has it: int or str."""


@dataclass
class Account:
    """One user's events by time.

    Args:
        keys: item key of every event sent.
        acknowledged: events whose call was answered.
        places: time of the event at each place of the history, as far as it was seen.
        count: events the store was last seen to hold.
        settled: the store is not asked any more.
    """

    keys: dict[int, Key] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    places: dict[int, int] = field(default_factory=dict)
    count: int = 0
    settled: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """An answer to be checked.

    Args:
        event_count: events of the user that it was made from.
        ranked: whether the keys are candidates in the order given, or the best of the catalogue, best first.
    """

    user: str
    event_count: int
    now: int
    ranked: bool
    keys: Sequence[Key]
    scores: NDArray[np.float32]


class Book:
    """Draws events and keeps account of them.

    Args:
        item_keys: what events are made of.
        most_samples: answers kept of all that are offered, each with the same chance.

    Attributes:
        misplaced: events seen at a place where another one was seen or acknowledged.
        strange: events that nobody sent.
    """

    def __init__(self, users: Sequence[str], *, item_keys: Sequence[Key], most_samples: int, seed: int) -> None:
        self.accounts = {user: Account() for user in users}
        self.samples: list[Sample] = []
        self.misplaced = 0
        self.strange = 0
        self.offered = 0
        self.item_keys = item_keys
        self._most_samples = most_samples
        self._random = random.Random(seed)  # noqa: S311 - events and samples
        self._next_time = FIRST_TIME_S

    def draw(self, user: str, count: int) -> Events:
        """New events of a user."""
        account = self.accounts[user]
        times = []
        for _ in range(count):
            self._next_time += STEP_S
            account.keys[self._next_time] = self._random.choice(self.item_keys)
            times.append(self._next_time)
        return Events([account.keys[time] for time in times], times)

    def open(self, user: str) -> None:
        """A user more."""
        self.accounts[user] = Account()

    def now(self) -> int:
        """When a question is asked, unix seconds."""
        return self._next_time + IDLE_S

    def settle(self, user: str, events: Events) -> None:
        """Note the whole history of a user whom nobody else writes to, and whose state will be forgotten."""
        times = [int(time) for time in events.times]
        account = self.accounts[user]
        self._see(account, 0, times)
        account.count, account.settled = len(times), True

    def acknowledge(self, user: str, events: Events, receipt: Receipt) -> None:
        """Note the answer to a call."""
        account = self.accounts[user]
        times = [int(time) for time in events.times]
        account.acknowledged.update(times)
        if receipt.applied:
            self._see(account, receipt.event_count - len(times), times)

    def offer(self, sample: Sample) -> None:
        """An answer that may be checked."""
        self.offered += 1
        if len(self.samples) < self._most_samples:
            self.samples.append(sample)
        elif (place := self._random.randrange(self.offered)) < self._most_samples:
            self.samples[place] = sample

    def look(self, store: StateStore) -> None:
        """Note what the store's windows name."""
        users = [user for user, account in self.accounts.items() if not account.settled]
        for user, found in zip(users, store.read_many([user.encode() for user in users]), strict=True):
            if found.state is not None:
                times = [int(time) for time in found.state[WINDOW_TIMES.name] if time]
                account = self.accounts[user]
                account.count = found.event_count
                self._see(account, found.event_count - len(times), times)

    def balance(self) -> Counter[str]:
        """Events by what is wrong with them; all counts are 0 where nothing is. Look at the store before."""
        wrong = Counter(misplaced=self.misplaced, strange=self.strange, lost=0, twice=0, unseen=0)
        for account in self.accounts.values():
            held = [account.places[place] for place in range(account.count) if place in account.places]
            wrong["unseen"] += account.count - len(held)
            wrong["twice"] += len(held) - len(set(held))
            wrong["lost"] += len(account.acknowledged - set(held))
        return wrong

    def history(self, user: str, events: int, vocabulary: Vocabulary) -> History | None:
        """The first events of a user in the order in which they were applied; None where one was never seen."""
        account = self.accounts[user]
        times = [account.places.get(place) for place in range(events)]
        if any(time is None or time not in account.keys for time in times):
            return None
        known = [time for time in times if time is not None]
        items = vocabulary.item_rows([account.keys[time] for time in known])
        return History(item_rows=items, behavior_rows=items * 0, times=np.array(known, np.int64))

    def _see(self, account: Account, place: int, times: Sequence[int]) -> None:
        for own, time in enumerate(times, start=place):
            self.misplaced += account.places.setdefault(own, time) != time
            self.strange += time not in account.keys
