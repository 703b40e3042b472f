"""Heads and chunks that this process has read or written a moment ago, so that they need not come again.

Redis is asked each time whether the head is that one still. While it is, the closed chunks are, too: an append never
rewrites them, and whatever else happens to a user changes the head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock

from hytrec_export.state.engine import UserRecords

MAX_USERS = 1_024
_CHUNKS = 4
"""The last ones of a user: a window of events is not longer."""


class SeenRecords:
    """Records of a bounded number of users; safe to share between threads."""

    def __init__(self, size: int = MAX_USERS) -> None:
        self._size = size
        self._users: OrderedDict[bytes, UserRecords] = OrderedDict()
        self._lock = Lock()

    def get(self, user_id: bytes) -> UserRecords | None:
        """What was seen of a user last."""
        with self._lock:
            return self._users.get(user_id)

    def put(self, user_id: bytes, head: bytes, chunks: Mapping[int, bytes]) -> None:
        """Remember a user in place of what was seen before."""
        last = {number: chunks[number] for number in sorted(chunks)[-_CHUNKS:]}
        with self._lock:
            self._users[user_id] = UserRecords(head=head, chunks=last)
            self._users.move_to_end(user_id)
            while len(self._users) > self._size:
                self._users.popitem(last=False)

    def drop(self, user_id: bytes) -> None:
        """Forget a user."""
        with self._lock:
            self._users.pop(user_id, None)

    def clear(self) -> None:
        """Forget all: another process may have forgotten some."""
        with self._lock:
            self._users.clear()
