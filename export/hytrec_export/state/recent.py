"""States that this process made a moment ago, so that the next request of the same user has few events to encode."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hytrec_export.state.snapshot import SnapshotHeader

SEEN_HEADERS = 8_192
_ROOM = 4_096
"""Bytes: a snapshot as it is stored has a header besides its tensors."""
LIFE_S = 60.0
"""A user who was forgotten by another process is out of this one's memory after so long."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RecentState:
    """A state, as good as a snapshot: used only where the history has its incarnation and digest.

    Args:
        state: tensors of `snapshot.SNAPSHOT`.
        kept: events of the snapshot that is stored of the user, as far as is known.
    """

    header: SnapshotHeader
    state: dict[str, NDArray[Any]]
    kept: int

    @classmethod
    def of(cls, header: SnapshotHeader, state: Mapping[str, NDArray[Any]], *, kept: int) -> Self:
        """A state as it was made or read; copied where it would hold memory of others too, as that of a whole batch."""
        held = {id(whole): whole.nbytes for whole in map(_whole, state.values())}
        is_part = sum(held.values()) > _ROOM + sum(values.nbytes for values in state.values())
        own = {name: values.copy() for name, values in state.items()} if is_part else dict(state)
        return cls(header=header, state=own, kept=kept)


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    return values.base if isinstance(values.base, np.ndarray) else values


class RecentStates:
    """The last states of a bounded number of users; safe to share between threads.

    Args:
        size: users; 0 remembers none.
        clock: monotonic seconds.
    """

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = size
        self._clock = clock
        self._states: OrderedDict[bytes, tuple[float, RecentState]] = OrderedDict()
        self._lock = Lock()

    def get(self, user_id: bytes) -> RecentState | None:
        """The last state of a user."""
        with self._lock:
            self._drop_old()
            found = self._states.get(user_id)
        return found[1] if found else None

    def put(self, user_id: bytes, state: RecentState) -> None:
        """Remember a state in place of the user's last one."""
        with self._lock:
            self._states[user_id] = (self._clock(), state)
            self._states.move_to_end(user_id)
            while len(self._states) > self.size:
                self._states.popitem(last=False)

    def drop(self, user_id: bytes) -> None:
        """Forget a user."""
        with self._lock:
            self._states.pop(user_id, None)

    def drop_old(self) -> None:
        """Forget what is older than a minute."""
        with self._lock:
            self._drop_old()

    def _drop_old(self) -> None:
        while self._states:
            user_id, (put_at, _) = next(iter(self._states.items()))
            if put_at + LIFE_S > self._clock():
                return
            del self._states[user_id]


class SeenHeaders:
    """Headers of users' snapshots as they were a moment ago, None for no snapshot: they tell when one is due.

    Args:
        size: users, about.
    """

    def __init__(self, size: int = SEEN_HEADERS) -> None:
        self._size = size
        self._headers: dict[bytes, SnapshotHeader | None] = {}

    def __contains__(self, user_id: bytes) -> bool:
        return user_id in self._headers

    def get(self, user_id: bytes) -> SnapshotHeader | None:
        """What was seen of a user last."""
        return self._headers.get(user_id)

    def put(self, user_id: bytes, header: SnapshotHeader | None) -> None:
        """Remember a header in place of the user's last one."""
        if len(self._headers) >= self._size and user_id not in self._headers:
            self._headers = {}
        self._headers[user_id] = header

    def drop(self, user_id: bytes) -> None:
        """Forget a user."""
        self._headers.pop(user_id, None)

    def clear(self) -> None:
        """Forget all."""
        self._headers = {}
