"""What was sent, what was acknowledged, and what the store was seen to hold: every event's whereabouts.

Every event has a time of its own, so the window of a user's state names the last events that were applied. Looked at
often enough, the windows tell the whole order; the ledger never has more events under way than a window holds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

import numpy as np

from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import WINDOW_TIMES
from hytrec_clients import Events, Receipt
from hytrec_export.state.store import StateStore, StoredUser

FIRST_TIME_S = 1_500_000_000
STEP_S = 40
MAX_EVENTS = 3
"""Most events of one call."""
PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """One logical call: some events of one user, known by their times."""

    user: str
    times: tuple[int, ...]
    events: Events


@dataclass
class Account:
    """One user's events by time.

    Args:
        items: key of every event sent.
        acknowledged: events whose call was answered.
        order: events in the order in which they were applied, as far as it was seen.
        claims: event_count and events of answers that are not yet compared with the order.
    """

    items: dict[int, int] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    order: list[int] = field(default_factory=list)
    claims: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


class LedgerClosed(Exception):  # noqa: N818 - not an error of its own: a writer failed with one
    """No more calls will be answered, for a writer ended early."""


class Ledger:
    """Hands out calls to writers and compares what they were told with what a store holds. Shared between threads.

    Args:
        item_keys: what events are made of.
        window: W, events that a state names.

    Attributes:
        lost: acknowledged events that the store does not hold.
        misplaced: events at another place than an answer or an earlier look said, or that nobody sent.
        calls, replayed: answered calls, and those among them whose events were in already.
        under_way: calls that are not answered yet.
        abandoned: whether nobody is to wait for answers any more.
    """

    def __init__(self, users: Sequence[str], *, item_keys: Sequence[int], window: int, seed: int) -> None:
        self.accounts = {user: Account() for user in users}
        self.lost = 0
        self.misplaced = 0
        self.calls = 0
        self.replayed = 0
        self.under_way = 0
        self.abandoned = False
        self._item_keys = item_keys
        self._window = window
        self._random = random.Random(seed)  # noqa: S311 - it draws items
        self._next_time = FIRST_TIME_S
        self._open = True
        self._paused = False
        self._changed = Condition()

    @property
    def twice(self) -> int:
        """Events that were applied more than once."""
        return sum(len(account.order) - len(set(account.order)) for account in self.accounts.values())

    def take(self) -> Task | None:
        """The next call; waits while there is none to be made, None at the end."""
        with self._changed:
            while self._open and (self._paused or not self._free_users()):
                self._changed.wait(PATIENCE_S)
            if not self._open:
                return None
            user = self._random.choice(self._free_users())
            times = tuple(self._times(self._random.randint(1, MAX_EVENTS)))
            account = self.accounts[user]
            account.items |= {time: self._random.choice(self._item_keys) for time in times}
            self.under_way += 1
            self._changed.notify_all()
        return Task(user=user, times=times, events=Events([account.items[time] for time in times], times))

    def acknowledge(self, task: Task, receipt: Receipt) -> None:
        """Note the answer to a call."""
        with self._changed:
            account = self.accounts[task.user]
            account.acknowledged.update(task.times)
            if receipt.applied:
                account.claims.append((receipt.event_count, task.times))
            else:
                self.replayed += 1
            self.calls += 1
            self.under_way -= 1
            self._changed.notify_all()

    def look(self, store: StateStore) -> None:
        """Compare every user with the store.

        Raises:
            ValueError: a user has more new events than a window names.
        """
        with self._changed:
            acknowledged = {user: set(account.acknowledged) for user, account in self.accounts.items()}
        stored = store.read_many([user.encode() for user in self.accounts])
        with self._changed:
            for (user, account), found in zip(self.accounts.items(), stored, strict=True):
                self._compare(account, found)
                missing = acknowledged[user] - set(account.order)
                self.lost += len(missing)
                account.acknowledged -= missing  # counted once
            self._changed.notify_all()

    def wait_for_calls(self, count: int) -> None:
        """Wait until so many more calls were answered.

        Raises:
            LedgerClosed: a writer ended.
            TimeoutError: it takes too long.
        """
        with self._changed:
            enough = self.calls + count
            self._wait(lambda: self.calls >= enough)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """No call is under way inside.

        Raises:
            LedgerClosed: a writer ended.
            TimeoutError: it takes too long.
        """
        with self._changed:
            self._paused = True
            self._wait(lambda: not self.under_way)
        yield
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def close(self) -> None:
        """No more calls."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def history(self, user: str, vocabulary: Vocabulary) -> History:
        """A user's events in the order in which they were applied."""
        account = self.accounts[user]
        times = np.array(account.order, np.int64)
        items = vocabulary.item_rows(np.array([account.items[time] for time in account.order], np.int64))
        return History(item_rows=items, behavior_rows=np.zeros_like(items), times=times)

    def _free_users(self) -> list[str]:
        return [
            user
            for user, account in self.accounts.items()
            if len(account.items) - len(account.order) + MAX_EVENTS <= self._window
        ]

    def _times(self, count: int) -> Iterator[int]:
        for _ in range(count):
            self._next_time += STEP_S
            yield self._next_time

    def _compare(self, account: Account, found: StoredUser) -> None:
        """Move a user's order on to what the store holds."""
        named = [] if found.state is None else [int(time) for time in found.state[WINDOW_TIMES.name] if time]
        known = len(account.order)
        fresh = found.event_count - known
        if fresh > len(named):
            raise ValueError(f"{fresh} events are new and the window names {len(named)}; look more often")
        order = [*account.order[: found.event_count], *named[len(named) - max(fresh, 0) :]]
        # A changed past shows in the window's older part.
        self.misplaced += sum(one != other for one, other in zip(order[::-1], named[::-1], strict=False))
        self.misplaced += sum(time not in account.items for time in order[known:])
        account.order = order
        settled = [claim for claim in account.claims if claim[0] <= len(order)]
        account.claims = [claim for claim in account.claims if claim[0] > len(order)]
        self.misplaced += sum(tuple(order[count - len(times) : count]) != times for count, times in settled)

    def _wait(self, happened: Callable[[], bool]) -> None:
        answered = self._changed.wait_for(lambda: happened() or not self._open, PATIENCE_S)
        if not self._open:
            raise LedgerClosed
        if not answered:
            raise TimeoutError(f"no call was answered for {PATIENCE_S:g} s")
