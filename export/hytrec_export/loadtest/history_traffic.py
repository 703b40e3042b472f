"""Visitors who have made exactly so many events, and the one sequence of calls that every contender gets."""

from __future__ import annotations

import numpy as np

from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.traffic import SPACING, Call, Visitor

GROWTH = 0.1
"""A visitor calls until its history is longer by this share, then another one comes."""


class HistoryTraffic:
    """Calls of visitors with a history of one length, one new event each.

    Every visitor is the beginning of a real history, a new name each time. They come in groups of SPACING x lanes;
    those of a group call in turn, as often each, and then the next group does. So no visitor comes twice within
    SPACING x lanes consecutive calls, and each stays in one lane: call i is in lane i mod lanes.

    Args:
        length: events of a visitor before its first call.
        lanes: calls under way at once.
        prefix: begins the name of every visitor.

    Attributes:
        visitors: who came so far.
        calls_each: calls of a visitor.

    Raises:
        LoadTestError: no history of the log is longer than `length`.
    """

    def __init__(self, log: EventLog, *, length: int, lanes: int, prefix: str) -> None:
        longest = int(log.lengths.max())
        if longest <= length:
            raise LoadTestError(
                f"the longest history of the event log has {longest} events, so none has {length} and then a new one; "
                f"give --history-lengths up to {longest - 1}, or a log of longer histories with --events"
            )
        self._log = log
        self._length = length
        self._prefix = prefix
        self._group = SPACING * lanes
        self.calls_each = min(max(1, round(GROWTH * length)), longest - length)
        self._users = np.flatnonzero(log.lengths >= length + self.calls_each)
        self.visitors: list[Visitor] = []

    def calls(self, first: int, stop: int) -> list[Call]:
        """Calls first to stop of the sequence; their visitors come."""
        found = []
        for number in range(first, stop):
            turn, place = divmod(number, self._group)
            group, made = divmod(turn, self.calls_each)
            visitor = self._visitor(group * self._group + place)
            found.append(Call(visitor=visitor, first=visitor.begin + made, stop=visitor.begin + made + 1))
        return found

    def _visitor(self, number: int) -> Visitor:
        while len(self.visitors) <= number:
            self._come()
        return self.visitors[number]

    def _come(self) -> None:
        number = len(self.visitors)
        user = int(self._users[number % len(self._users)])
        start = int(self._log.offsets[user])
        begin = start + self._length
        cuts = np.arange(begin + 1, begin + self.calls_each + 1)
        name = f"{self._prefix}-{self._length}-{number}"
        self.visitors.append(Visitor(name=name, user=user, start=start, begin=begin, cuts=cuts))
