"""Request ids: 8 bytes of a client slot, then random ones.

The server keeps the last 32 request ids of every user; beyond that it forgets the oldest of the slot that has most.
A client uses a slot for one request at a time, so a request whose response was lost is not forgotten, however many
requests succeed before its retry.
"""

from __future__ import annotations

import os

from hytrec.signature import CLIENT_SLOT_BYTES, REQUEST_ID_BYTES


class RequestIds:
    """Makes ids; safe to share between threads."""

    def __init__(self) -> None:
        self._free_slots: list[bytes] = []

    def take(self) -> bytes:
        """A new id, in a slot that no other in-flight request has."""
        try:
            slot = self._free_slots.pop()
        except IndexError:
            slot = os.urandom(CLIENT_SLOT_BYTES)
        return slot + os.urandom(REQUEST_ID_BYTES - CLIENT_SLOT_BYTES)

    def release(self, request_id: bytes) -> None:
        """Free the slot of a request that succeeded; one without a response keeps its slot."""
        self._free_slots.append(request_id[:CLIENT_SLOT_BYTES])
