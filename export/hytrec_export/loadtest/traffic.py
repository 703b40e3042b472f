"""Who calls next, and with which of the log's events.

A visitor is one user as the server knows it. The first half of a visitor's history is there before the test; the
second half comes call by call, in order, each event once. A user of the log whose events are used up comes again as
another visitor, so that traffic never ends and no event of a visitor is sent twice.

perf_analyzer sends entry i from thread i mod n (2.50; seen), each thread one at a time. A visitor stays in one thread,
a lane, for as long as a run lasts, so that two of its calls are never under way together however the threads drift.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hytrec_export.loadtest.event_log import EventLog, Int64Array

SPACING = 4
"""No visitor twice among SPACING x lanes consecutive requests."""
MAX_CALL_EVENTS = 4
CALL_GAP_S = 60
"""Events further apart never share a call."""
LONG_HISTORY = 100
"""Scenario cold takes histories from this length on, where the log has any."""


@dataclass(kw_only=True, eq=False)
class Visitor:
    """A user on the server.

    Args:
        user: of the log.
        start: first event of its history, an index of the log's flat arrays.
        begin: first event of its traffic; those before it are fed beforehand.
        cuts: ends of its calls, in order.
    """

    name: str
    user: int
    start: int
    begin: int
    cuts: Int64Array
    calls_made: int = 0

    @property
    def calls_left(self) -> int:
        """Calls that its history still holds."""
        return len(self.cuts) - self.calls_made

    def next_call(self) -> Call:
        """Its next events."""
        first = self.begin if self.calls_made == 0 else int(self.cuts[self.calls_made - 1])
        stop = int(self.cuts[self.calls_made])
        self.calls_made += 1
        return Call(visitor=self, first=first, stop=stop)


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """Events first to stop of the log, as the next call of a visitor."""

    visitor: Visitor
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def events_before(self) -> int:
        """Events the server has of the visitor when the call comes."""
        return self.first - self.visitor.start


class Traffic:
    """Calls of returning users.

    Args:
        prefix: begins the name of every visitor; of this test alone.
    """

    def __init__(self, log: EventLog, *, prefix: str, seed: int) -> None:
        self._log = log
        self._prefix = prefix
        self._random = np.random.default_rng(seed)
        self._halves = log.offsets[:-1] + log.lengths // 2
        self._cuts = [self._cuts_of(user) for user in range(log.users)]
        calls = np.array([len(cuts) for cuts in self._cuts], np.float64)
        self._frequency = calls / calls.sum()
        self.visitors: list[Visitor] = []
        for user in range(log.users):
            self._come(user)

    def take(self, requests: int, *, lanes: int) -> list[Call]:
        """The next calls: entry i comes from lane i mod lanes; users as often as in the log."""
        sources = [self._lane(visitors) for visitors in self._spread(lanes)]
        return [next(sources[entry % lanes]) for entry in range(requests)]

    def _spread(self, lanes: int) -> list[list[Visitor]]:
        """Visitors with calls left, dealt to the lanes so that each lane has about as many calls."""
        ready = [visitor for visitor in self.visitors if visitor.calls_left]
        order = self._random.permutation(len(ready))
        dealt: list[list[Visitor]] = [[] for _ in range(lanes)]
        calls = np.zeros(lanes)
        for place in sorted(order, key=lambda place: -ready[place].calls_left):
            lane = int(np.argmin(calls))
            dealt[lane].append(ready[place])
            calls[lane] += ready[place].calls_left
        return dealt

    def _lane(self, visitors: list[Visitor]) -> Iterator[Call]:
        """Calls of one lane without end, drawn without replacement, never a visitor within SPACING turns."""
        repeats = np.repeat(np.arange(len(visitors)), [visitor.calls_left for visitor in visitors])
        waiting = deque(visitors[place] for place in self._random.permutation(repeats))
        recent: deque[Visitor] = deque(maxlen=SPACING - 1)
        while True:
            visitor = self._rested(waiting, recent)
            recent.append(visitor)
            yield visitor.next_call()

    def _rested(self, waiting: deque[Visitor], recent: deque[Visitor]) -> Visitor:
        for place, visitor in enumerate(waiting):
            if visitor not in recent:
                del waiting[place]
                return visitor
        visitor = self._come(int(self._random.choice(self._log.users, p=self._frequency)))
        waiting.extend([visitor] * (visitor.calls_left - 1))
        return visitor

    def _come(self, user: int) -> Visitor:
        visitor = Visitor(
            name=f"{self._prefix}-{len(self.visitors)}",
            user=user,
            start=int(self._log.offsets[user]),
            begin=int(self._halves[user]),
            cuts=self._cuts[user],
        )
        self.visitors.append(visitor)
        return visitor

    def _cuts_of(self, user: int) -> Int64Array:
        """Where a user's calls end: at a pause, or at a size drawn from 1 to MAX_CALL_EVENTS."""
        first, stop = int(self._halves[user]), int(self._log.offsets[user + 1])
        return cuts(self._log.times[first:stop], self._random) + first


def cuts(times: Int64Array, random: np.random.Generator) -> Int64Array:
    """Ends of the calls that events at these times come in: (T,) -> (at most T,), the last is T."""
    sizes = random.integers(1, MAX_CALL_EVENTS + 1, len(times)).tolist()
    paused = (np.diff(times) > CALL_GAP_S).tolist()
    ends, begun = [], 0
    for event in range(1, len(times)):
        if paused[event - 1] or event - begun >= sizes[begun]:
            ends.append(event)
            begun = event
    return np.array([*ends, len(times)], np.int64)


class ColdTraffic:
    """Calls of new users, each with the last `max_events` events of a long history.

    Lengths come evenly from every octave that the log has, so that cost by length can be read from the report; every
    take has the same histories, so that windows can be compared.
    """

    def __init__(self, log: EventLog, *, prefix: str, seed: int, max_events: int) -> None:
        self._log = log
        self._prefix = prefix
        self._max_events = max_events
        lengths = np.minimum(log.lengths, max_events)
        long = np.random.default_rng(seed).permutation(np.flatnonzero(lengths >= min(LONG_HISTORY, int(lengths.max()))))
        octaves = np.log2(lengths[long]).astype(np.int64)
        self._groups: list[NDArray[np.int64]] = [long[octaves == octave] for octave in np.unique(octaves)]
        self.visitors: list[Visitor] = []

    def take(self, requests: int, *, lanes: int) -> list[Call]:
        """The next calls; a new visitor each, whatever the lanes."""
        del lanes
        return [self._come(number).next_call() for number in range(requests)]

    def _come(self, number: int) -> Visitor:
        turn, place = divmod(number, len(self._groups))
        group = self._groups[place]
        user = int(group[turn % len(group)])
        stop = int(self._log.offsets[user + 1])
        start = max(int(self._log.offsets[user]), stop - self._max_events)
        name = f"{self._prefix}-{len(self.visitors)}"
        visitor = Visitor(name=name, user=user, start=start, begin=start, cuts=np.array([stop]))
        self.visitors.append(visitor)
        return visitor
