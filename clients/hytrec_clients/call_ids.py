"""Ids of logical calls: a strand and a random rest.

The server keeps 32 calls of every user. When there are more, it forgets the oldest of the strand that has most.
A strand is used by one call at a time, so a call whose answer was lost is never pushed out by calls that were
answered, however many come before it is made again.
"""

from __future__ import annotations

import os

from hytrec.signature import CALL_ID_BYTES, CALL_STRAND_BYTES


class CallIds:
    """Makes ids; safe to share between threads."""

    def __init__(self) -> None:
        self._free_strands: list[bytes] = []

    def take(self) -> bytes:
        """A new id, in a strand that no other call under way has."""
        try:
            strand = self._free_strands.pop()
        except IndexError:
            strand = os.urandom(CALL_STRAND_BYTES)
        return strand + os.urandom(CALL_ID_BYTES - CALL_STRAND_BYTES)

    def settle(self, call_id: bytes) -> None:
        """Give the strand of an answered call to others. Without an answer it stays the call's own."""
        self._free_strands.append(call_id[:CALL_STRAND_BYTES])
