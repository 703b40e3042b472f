"""Looks at all users of a served store, round and round: the expired ones are forgotten, the damaged ones told.

One process of all that serve a store does it, a few hundred users a second. Nobody expires, for requests either, before
a round has found that no more than a twentieth of the users would: a clock that is wrong must not delete a store.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeAlias

from hytrec.contract import StateStatus
from hytrec_export.errors import StateStoreError
from hytrec_export.progress import NOTICE
from hytrec_export.state.histories import HistoryStore
from hytrec_export.state.steady_clock import SteadyClock

SWEEP_LOCK_FILE = "sweep.lock"
MAX_SHARE = 20
"""One of so many users may expire in a round."""
MIN_USERS = 32
"""So many may, however few users there are."""
_HEADS_PER_STEP = 512
_FORGOTTEN_PER_STEP = 64
_KEEP_CLOCK_S = 60.0
PAUSE_S = 60.0
_CHECKED, _CLOCK = "expiry_checked", "clock"


class Notice(StrEnum):
    """What is told and counted."""

    DAMAGED_USERS = "damaged users"
    EXPIRY_STOPPED = "expiry stopped"


Tell: TypeAlias = Callable[[Notice, int], None]
"""A notice, and by how much its count rises."""


class SweepTurn(Protocol):
    """Chooses one of the processes that serve a store."""

    def mine(self) -> bool:
        """Whether this process is chosen, and stays it until it is closed or ends."""

    def close(self) -> None:
        """Let another process go on."""


class FileTurn:
    """See `SweepTurn`: the process that has a file locked.

    Args:
        path: made when missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1

    def mine(self) -> bool:
        """See `SweepTurn`."""
        if self._lock >= 0:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def close(self) -> None:
        """See `SweepTurn`."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def stored_clock(store: HistoryStore) -> float:
    """Unix seconds up to which a store's clock is known to have come; 0 at first."""
    return float(store.engine.noted(_CLOCK) or 0)


def keep_steady(store: HistoryStore) -> None:
    """Give a store that goes by the wall clock a steady one, which begins where its own is known to have come."""
    if store.rules.clock is time.time:
        store.rules = replace(store.rules, clock=SteadyClock(stored_clock(store)))


class Sweep:
    """The rounds of one process.

    Args:
        store: its `rules.expiry` is turned on and off.
        turn: by which one process of many is chosen.
        tell: called beside the line on stderr; None makes no rounds, and follows what another process found.
        pause_s: between two rounds.
    """

    def __init__(self, store: HistoryStore, *, turn: SweepTurn, tell: Tell | None, pause_s: float = PAUSE_S) -> None:
        self._store = store
        self._turn = turn
        self._tell = tell
        self._pause_s = pause_s
        self._next_round = 0.0
        self._opened_at = store.rules.clock()
        self._clock_kept_at = 0.0
        self._told_damaged = 0
        self._stopped = False
        self._doomed: list[bytes] = []
        self._after = b""
        self._seen = self._damaged = 0
        self._candidates: list[bytes] = []
        store.rules.expiry.off = store.rules.ttl_s is not None

    def step(self) -> None:
        """A part of a round; at most some milliseconds. A store that cannot be reached is left alone."""
        with suppress(StateStoreError):
            if self._tell and self._turn.mine():
                self._work(self._tell)
            if self._store.rules.ttl_s is not None:
                checked = float(self._store.engine.noted(_CHECKED) or 0)
                self._store.rules.expiry.off = checked < self._opened_at

    def close(self) -> None:
        """Let another process go on."""
        self._turn.close()

    def _work(self, tell: Tell) -> None:
        doomed, self._doomed = self._doomed[:_FORGOTTEN_PER_STEP], self._doomed[_FORGOTTEN_PER_STEP:]
        for user_id in doomed:
            self._store.forget_expired(user_id)
        if self._doomed or time.monotonic() < self._next_round:
            return
        heads = self._store.engine.heads_after(self._after, _HEADS_PER_STEP)
        for user_id, raw in heads:
            self._seen += 1
            status = self._store.rules.judged(user_id, raw)
            self._damaged += status is StateStatus.DAMAGED
            if status is StateStatus.EXPIRED:
                self._candidates.append(user_id)
        if len(heads) == _HEADS_PER_STEP:
            self._after = heads[-1][0]
        else:
            self._end(tell)
            self._begin()
            self._next_round = time.monotonic() + self._pause_s

    def _begin(self) -> None:
        self._after = b""
        self._seen = self._damaged = 0
        self._candidates = []

    def _end(self, tell: Tell) -> None:
        self._tell_damage(tell)
        rules, engine = self._store.rules, self._store.engine
        if rules.ttl_s is None:
            return
        if len(self._candidates) > max(MIN_USERS, self._seen // MAX_SHARE):
            self._stop(tell)
            return
        self._stopped = False
        self._doomed = self._candidates
        now = rules.clock()
        if now - self._clock_kept_at >= _KEEP_CLOCK_S or rules.expiry.off:
            self._clock_kept_at = now
            engine.note({_CHECKED: f"{now:.3f}", _CLOCK: f"{now:.3f}"})

    def _stop(self, tell: Tell) -> None:
        engine = self._store.engine
        if engine.noted(_CHECKED):
            engine.note({_CHECKED: ""})
        if not self._stopped:
            self._stopped = True
            _say(
                f"{len(self._candidates)} of {self._seen} users would expire at once, more than one in {MAX_SHARE}, "
                "so none does; check the clock and --state-ttl; if they are right, stop the server and run: "
                "hytrec-export state compact"
            )
            tell(Notice.EXPIRY_STOPPED, 1)

    def _tell_damage(self, tell: Tell) -> None:
        found = self._damaged - self._told_damaged
        self._told_damaged = self._damaged
        if found > 0:
            _say(
                f"the records of {self._damaged} of {self._seen} users are damaged, and these users count as new; list "
                "them with: hytrec-export state show --users; restore a backup, or remove them with: "
                "hytrec-export state compact"
            )
            tell(Notice.DAMAGED_USERS, found)


def _say(text: str) -> None:
    print(f"{NOTICE}{text}", file=sys.stderr, flush=True)  # noqa: T201 - to the operator
