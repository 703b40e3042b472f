"""Simulated users, and the order of their requests.

A simulated user is one user as the server knows it. The first half of its history is prefilled before the test; the
second half is sent request by request, in order, each event once. A user of the log whose events are used up returns
as another simulated user, so that traffic never ends and no event of a simulated user is sent twice.

perf_analyzer sends entry i from thread i mod n (observed with 2.50), each thread one at a time. A simulated user stays
in one thread for as long as a run lasts, so that two of its requests are never in flight together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hytrec_export.loadtest.event_log import EventLog, Int64Array

SPACING = 4
"""No user twice among SPACING x threads consecutive requests."""
MAX_REQUEST_EVENTS = 4
REQUEST_GAP_S = 60
"""Events further apart never share a request."""
LONG_HISTORY = 100
"""Scenario cold takes histories from this length on, where the log has any."""


@dataclass(kw_only=True, eq=False)
class SimulatedUser:
    """A user on the server.

    Args:
        log_user: number of the log's user.
        start: first event of its history, an index of the log's flat arrays.
        begin: first event that traffic sends; those before it are prefilled.
        ends: where each of its requests ends, in order.
    """

    name: str
    log_user: int
    start: int
    begin: int
    ends: Int64Array
    sent: int = 0

    @property
    def requests_left(self) -> int:
        """Requests that its history still holds."""
        return len(self.ends) - self.sent

    def next_request(self) -> UserRequest:
        """Its next events."""
        first = self.begin if self.sent == 0 else int(self.ends[self.sent - 1])
        stop = int(self.ends[self.sent])
        self.sent += 1
        return UserRequest(user=self, first=first, stop=stop)


@dataclass(frozen=True, kw_only=True, eq=False)
class UserRequest:
    """Events first to stop of the log, as the next request of a user."""

    user: SimulatedUser
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def events_before(self) -> int:
        """Events the server has of the user before the request."""
        return self.first - self.user.start


class Traffic:
    """Requests of returning users.

    Args:
        prefix: begins the name of every simulated user; unique to this test.
    """

    def __init__(self, log: EventLog, *, prefix: str, seed: int) -> None:
        self._log = log
        self._prefix = prefix
        self._random = np.random.default_rng(seed)
        self._halves = log.offsets[:-1] + log.lengths // 2
        self._ends = [self._ends_of(user) for user in range(log.users)]
        requests = np.array([len(ends) for ends in self._ends], np.float64)
        self._frequency = requests / requests.sum()
        self.users: list[SimulatedUser] = []
        for user in range(log.users):
            self._add_user(user)

    def take(self, count: int, *, threads: int) -> list[UserRequest]:
        """The next requests: entry i is sent by thread i mod threads; users as often as in the log."""
        sources = [self._thread(users) for users in self._distribute(threads)]
        return [next(sources[entry % threads]) for entry in range(count)]

    def _distribute(self, threads: int) -> list[list[SimulatedUser]]:
        """Users with requests left, assigned to threads so that each thread has about as many requests."""
        ready = [user for user in self.users if user.requests_left]
        order = self._random.permutation(len(ready))
        assigned: list[list[SimulatedUser]] = [[] for _ in range(threads)]
        requests = np.zeros(threads)
        for place in sorted(order, key=lambda place: -ready[place].requests_left):
            thread = int(np.argmin(requests))
            assigned[thread].append(ready[place])
            requests[thread] += ready[place].requests_left
        return assigned

    def _thread(self, users: list[SimulatedUser]) -> Iterator[UserRequest]:
        """Requests of one thread without end, drawn without replacement, never a user within SPACING turns."""
        repeats = np.repeat(np.arange(len(users)), [user.requests_left for user in users])
        waiting = deque(users[place] for place in self._random.permutation(repeats))
        recent: deque[SimulatedUser] = deque(maxlen=SPACING - 1)
        while True:
            user = self._rested(waiting, recent)
            recent.append(user)
            yield user.next_request()

    def _rested(self, waiting: deque[SimulatedUser], recent: deque[SimulatedUser]) -> SimulatedUser:
        for place, user in enumerate(waiting):
            if user not in recent:
                del waiting[place]
                return user
        user = self._add_user(int(self._random.choice(self._log.users, p=self._frequency)))
        waiting.extend([user] * (user.requests_left - 1))
        return user

    def _add_user(self, log_user: int) -> SimulatedUser:
        user = SimulatedUser(
            name=f"{self._prefix}-{len(self.users)}",
            log_user=log_user,
            start=int(self._log.offsets[log_user]),
            begin=int(self._halves[log_user]),
            ends=self._ends[log_user],
        )
        self.users.append(user)
        return user

    def _ends_of(self, user: int) -> Int64Array:
        first, stop = int(self._halves[user]), int(self._log.offsets[user + 1])
        return request_ends(self._log.times[first:stop], self._random) + first


def request_ends(times: Int64Array, random: np.random.Generator) -> Int64Array:
    """Where requests end: at a pause, or at a size drawn from 1 to MAX_REQUEST_EVENTS.

    Args:
        times: (T,) unix seconds.

    Returns:
        (at most T,) int64, increasing; the last is T.
    """
    sizes = random.integers(1, MAX_REQUEST_EVENTS + 1, len(times)).tolist()
    paused = (np.diff(times) > REQUEST_GAP_S).tolist()
    ends, begun = [], 0
    for event in range(1, len(times)):
        if paused[event - 1] or event - begun >= sizes[begun]:
            ends.append(event)
            begun = event
    return np.array([*ends, len(times)], np.int64)


class ColdTraffic:
    """Requests of new users, each with the last `max_events` events of a long history.

    Lengths are drawn evenly from every power-of-two bucket that the log has, so that cost by length can be read from
    the report; every take has the same histories, so that windows can be compared.
    """

    def __init__(self, log: EventLog, *, prefix: str, seed: int, max_events: int) -> None:
        self._log = log
        self._prefix = prefix
        self._max_events = max_events
        lengths = np.minimum(log.lengths, max_events)
        long = np.random.default_rng(seed).permutation(np.flatnonzero(lengths >= min(LONG_HISTORY, int(lengths.max()))))
        buckets = np.log2(lengths[long]).astype(np.int64)
        self._groups: list[NDArray[np.int64]] = [long[buckets == bucket] for bucket in np.unique(buckets)]
        self.users: list[SimulatedUser] = []

    def take(self, count: int, *, threads: int) -> list[UserRequest]:
        """The next requests, of a new user each; any thread may send them."""
        del threads
        return [self._add_user(number).next_request() for number in range(count)]

    def _add_user(self, number: int) -> SimulatedUser:
        turn, place = divmod(number, len(self._groups))
        group = self._groups[place]
        log_user = int(group[turn % len(group)])
        stop = int(self._log.offsets[log_user + 1])
        start = max(int(self._log.offsets[log_user]), stop - self._max_events)
        name = f"{self._prefix}-{len(self.users)}"
        user = SimulatedUser(name=name, log_user=log_user, start=start, begin=start, ends=np.array([stop]))
        self.users.append(user)
        return user
