"""What a process does for a store in Redis beside requests, and which of many processes looks through the users."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Thread

from hytrec_export.errors import StateStoreError
from hytrec_export.state.redis_keys import SWEEP_KEY
from hytrec_export.state.redis_nodes import Command, RedisNodes

_CHORES_EVERY_S = 1.0
_REFRESH_EVERY_S = 30.0
_TURN_LIFE_MS = 15_000
"""After so long without a sign another process looks through the users."""


class RedisTurn:
    """See `SweepTurn`: a key that goes by itself where its owner dies."""

    def __init__(self, nodes: RedisNodes) -> None:
        self._nodes = nodes
        self._name = os.urandom(16)

    def mine(self) -> bool:
        """See `SweepTurn`."""
        take = Command(SWEEP_KEY, ("SET", SWEEP_KEY, self._name, "NX", "PX", _TURN_LIFE_MS))
        _, owner = self._nodes.results([take, Command(SWEEP_KEY, ("GET", SWEEP_KEY))])
        if owner != self._name:
            return False
        self._nodes.results([Command(SWEEP_KEY, ("PEXPIRE", SWEEP_KEY, _TURN_LIFE_MS))])
        return True

    def close(self) -> None:
        """See `SweepTurn`."""
        with suppress(StateStoreError):
            (owner,) = self._nodes.results([Command(SWEEP_KEY, ("GET", SWEEP_KEY))])
            if owner == self._name:
                self._nodes.results([Command(SWEEP_KEY, ("DEL", SWEEP_KEY))])


class Maintenance:
    """A thread that does chores every second, and refreshes every thirty; what fails is done again later."""

    def __init__(self, chores: Sequence[Callable[[], object]], refreshes: Sequence[Callable[[], object]]) -> None:
        self._chores = chores
        self._refreshes = refreshes
        self._closed = Event()
        self._thread = Thread(target=self._work, name="state-maintenance", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        refreshed_at = time.monotonic()
        while not self._closed.wait(_CHORES_EVERY_S):
            due = list(self._chores)
            if time.monotonic() >= refreshed_at + _REFRESH_EVERY_S:
                refreshed_at = time.monotonic()
                due += self._refreshes
            for chore in due:
                with suppress(StateStoreError):
                    chore()
