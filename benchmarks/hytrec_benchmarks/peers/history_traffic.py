"""Users with exactly so many events, and the one sequence of requests that every competitor gets."""

from __future__ import annotations

import numpy as np

from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.traffic import SPACING, SimulatedUser, UserRequest

GROWTH = 0.1
"""A user sends requests until its history has grown by this share, then another one takes its place."""


class HistoryTraffic:
    """Requests of users with a history of one length, one new event each.

    Every user is the beginning of a real history, under a new name each time. They come in groups of SPACING x threads;
    the users of a group send in turn, as often each, and then the next group does. So no user occurs twice within
    SPACING x threads consecutive requests, and each stays in one thread: request i is sent by thread i mod threads.

    Args:
        length: events of a user before its first request.
        threads: client threads.
        prefix: begins the name of every user.

    Attributes:
        users: those who occurred so far.
        requests_each: requests of a user.

    Raises:
        LoadTestError: no history of the log is longer than `length`.
    """

    def __init__(self, log: EventLog, *, length: int, threads: int, prefix: str) -> None:
        longest = int(log.lengths.max())
        if longest <= length:
            raise LoadTestError(
                f"the longest history of the event log has {longest} events, so none has {length} and then a new one; "
                f"give --history-lengths up to {longest - 1}, or a log of longer histories with --events"
            )
        self._log = log
        self._length = length
        self._prefix = prefix
        self._group = SPACING * threads
        self.requests_each = min(max(1, round(GROWTH * length)), longest - length)
        self._log_users = np.flatnonzero(log.lengths >= length + self.requests_each)
        self.users: list[SimulatedUser] = []

    def requests(self, first: int, stop: int) -> list[UserRequest]:
        """Requests first to stop of the sequence; `users` grows as needed."""
        found = []
        for number in range(first, stop):
            turn, place = divmod(number, self._group)
            group, sent = divmod(turn, self.requests_each)
            user = self._user(group * self._group + place)
            found.append(UserRequest(user=user, first=user.begin + sent, stop=user.begin + sent + 1))
        return found

    def _user(self, number: int) -> SimulatedUser:
        while len(self.users) <= number:
            place = len(self.users)
            log_user = int(self._log_users[place % len(self._log_users)])
            name = f"{self._prefix}-{self._length}-{place}"
            self.users.append(user_after(self._log, log_user, self._length, name=name, requests=self.requests_each))
        return self.users[number]


def user_after(log: EventLog, log_user: int, length: int, *, name: str, requests: int) -> SimulatedUser:
    """The log's user after its first `length` events, who then sends one event a request."""
    start = int(log.offsets[log_user])
    begin = start + length
    ends = np.arange(begin + 1, begin + requests + 1)
    return SimulatedUser(name=name, log_user=log_user, start=start, begin=begin, ends=ends)
