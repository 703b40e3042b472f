"""Request ids: 8 bytes of a client slot, a mark, and a counter that rises within the slot.

The server keeps the highest counter that it applied of every slot, and applies no request that is not above it: a
request that arrives late, however late, is never applied a second time. A client uses a slot for one request at a time.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from hytrec.signature import CLIENT_SLOT_BYTES, COUNTED_REQUEST, REQUEST_ID_BYTES
from hytrec_clients.errors import InvalidRequest

_COUNTER_AT = CLIENT_SLOT_BYTES + len(COUNTED_REQUEST)
_MAX_COUNTER = (1 << 8 * (REQUEST_ID_BYTES - _COUNTER_AT)) - 1


class RequestIds:
    """Makes ids; safe to share between threads."""

    def __init__(self) -> None:
        self._free: list[tuple[bytes, int]] = []

    def take(self) -> bytes:
        """A new id, in a slot that no other in-flight request has."""
        try:
            slot, last = self._free.pop()
        except IndexError:
            slot, last = os.urandom(CLIENT_SLOT_BYTES), 0
        return _request_id(slot, last + 1)

    def release(self, request_id: bytes) -> None:
        """Free the slot of a request that succeeded; one without a response keeps its slot, and may be repeated."""
        counter = int.from_bytes(request_id[_COUNTER_AT:], "big")
        if counter < _MAX_COUNTER:
            self._free.append((request_id[:CLIENT_SLOT_BYTES], counter))


def stream_request_id(topic: str, partition: int, offset: int) -> bytes:
    """The request id of a message of a log that is read in order, such as Kafka's.

    The messages of a partition share a client slot, and their offset is the counter: however often a consumer goes
    back, none is applied twice. All events of a user must be in one partition.

    Raises:
        InvalidRequest: the offset is negative or over 2^48.
    """
    if not 0 <= offset < _MAX_COUNTER:
        raise InvalidRequest(f"offset is {offset}; it must be 0 to {_MAX_COUNTER - 1}", field="offset")
    slot = blake2b(f"{topic}\0{partition}".encode(), digest_size=CLIENT_SLOT_BYTES).digest()
    return _request_id(slot, offset + 1)


def _request_id(slot: bytes, counter: int) -> bytes:
    return slot + COUNTED_REQUEST + counter.to_bytes(REQUEST_ID_BYTES - _COUNTER_AT, "big")
