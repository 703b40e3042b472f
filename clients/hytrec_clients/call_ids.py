"""Ids of logical calls: a lane and a random rest.

The server keeps 32 calls of every user. When there are more, it forgets the oldest of the lane that has most. A lane
is used by one call at a time, so a call whose answer was lost is never pushed out by calls that were answered,
however many come before it is made again.
"""

from __future__ import annotations

import os

from hytrec.signature import CALL_ID_BYTES, CALL_LANE_BYTES


class CallIds:
    """Makes ids; safe to share between threads."""

    def __init__(self) -> None:
        self._free_lanes: list[bytes] = []

    def take(self) -> bytes:
        """A new id, in a lane that no other call under way has."""
        try:
            lane = self._free_lanes.pop()
        except IndexError:
            lane = os.urandom(CALL_LANE_BYTES)
        return lane + os.urandom(CALL_ID_BYTES - CALL_LANE_BYTES)

    def settle(self, call_id: bytes) -> None:
        """Give the lane of an answered call to others. Without an answer it stays the call's own."""
        self._free_lanes.append(call_id[:CALL_LANE_BYTES])
