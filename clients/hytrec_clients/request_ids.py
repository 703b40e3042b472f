"""Ids of logical calls: a client_slot and a random rest.

The server keeps 32 calls of every user. When there are more, it forgets the oldest of the client_slot that has most.
A client_slot is used by one call at a time, so a call whose answer was lost is never pushed out by calls that were
answered, however many come before it is made again.
"""

from __future__ import annotations

import os

from hytrec.signature import CLIENT_SLOT_BYTES, REQUEST_ID_BYTES


class RequestIds:
    """Makes ids; safe to share between threads."""

    def __init__(self) -> None:
        self._free_strands: list[bytes] = []

    def take(self) -> bytes:
        """A new id, in a client_slot that no other call under way has."""
        try:
            client_slot = self._free_strands.pop()
        except IndexError:
            client_slot = os.urandom(CLIENT_SLOT_BYTES)
        return client_slot + os.urandom(REQUEST_ID_BYTES - CLIENT_SLOT_BYTES)

    def settle(self, request_id: bytes) -> None:
        """Give the client_slot of an answered call to others. Without an answer it stays the call's own."""
        self._free_strands.append(request_id[:CLIENT_SLOT_BYTES])
