"""Which requests were applied to a user, so that none is applied twice however late it comes again.

An id of 16 bytes is either a client slot (8 bytes, used for one request at a time), `COUNTED_REQUEST` and a counter
that rises within the slot; or opaque. Of a client slot the highest counter is kept, and whatever is not above it was
applied or never will be. Of opaque ids the last 32 are kept.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from hytrec.signature import CLIENT_SLOT_BYTES, COUNTED_REQUEST, REQUEST_ID_BYTES

MAX_OPAQUE = 32
KEPT_CLIENT_SLOTS = 32
"""So many are kept however old they are."""
MAX_CLIENT_SLOTS = 256
CLIENT_SLOT_LIFE_S = 600
"""A younger one is never dropped."""
NO_REQUEST = bytes(REQUEST_ID_BYTES)
"""Id of a request that its caller cannot repeat; it is not kept."""
_COUNTS = struct.Struct("<HH")
_CLIENT_SLOT = struct.Struct(f"<{CLIENT_SLOT_BYTES}sQI")
_COUNTER_AT = CLIENT_SLOT_BYTES + len(COUNTED_REQUEST)


def counted(request_id: bytes) -> tuple[bytes, int] | None:
    """Client slot and counter of an id; None where it is opaque."""
    if request_id[CLIENT_SLOT_BYTES:_COUNTER_AT] != COUNTED_REQUEST:
        return None
    return request_id[:CLIENT_SLOT_BYTES], int.from_bytes(request_id[_COUNTER_AT:], "big")


class TooManyClientsError(Exception):
    """256 client slots wrote to one user within ten minutes."""


@dataclass(kw_only=True)
class AppliedRequests:
    """Requests that were applied to one user.

    Args:
        client_slots: highest counter of each client slot, and the unix second of its request.
        opaque: the other ids, oldest first.
    """

    client_slots: Mapping[bytes, tuple[int, int]] = field(default_factory=dict)
    opaque: tuple[bytes, ...] = ()

    def __contains__(self, request_id: bytes) -> bool:
        found = counted(request_id)
        if found is None:
            return request_id in self.opaque
        client_slot, counter = found
        return client_slot in self.client_slots and counter <= self.client_slots[client_slot][0]

    def following(self, request_id: bytes, now_s: int) -> AppliedRequests:
        """These and one more, which must not be among them.

        Raises:
            TooManyClientsError: there is no room for a new client slot.
        """
        if request_id == NO_REQUEST:
            return self
        found = counted(request_id)
        if found is None:
            return AppliedRequests(client_slots=self.client_slots, opaque=(*self.opaque, request_id)[-MAX_OPAQUE:])
        client_slot, counter = found
        client_slots = {**self.client_slots, client_slot: (counter, now_s)}
        if len(client_slots) > KEPT_CLIENT_SLOTS:
            oldest_first = sorted(client_slots, key=lambda one: client_slots[one][1])
            for old in oldest_first[: len(client_slots) - KEPT_CLIENT_SLOTS]:
                if old != client_slot and client_slots[old][1] + CLIENT_SLOT_LIFE_S <= now_s:
                    del client_slots[old]
        if len(client_slots) > MAX_CLIENT_SLOTS:
            raise TooManyClientsError
        return AppliedRequests(client_slots=client_slots, opaque=self.opaque)

    def pack(self) -> bytes:
        """As bytes."""
        packed = [
            _CLIENT_SLOT.pack(client_slot, *counter_and_time)
            for client_slot, counter_and_time in self.client_slots.items()
        ]
        return b"".join([_COUNTS.pack(len(packed), len(self.opaque)), *packed, *self.opaque])

    @classmethod
    def unpack(cls, raw: bytes, start: int) -> tuple[AppliedRequests, int]:
        """What `pack` wrote at `start`, and where it ends.

        Raises:
            struct.error: there are too few bytes.
        """
        client_slots, opaque = _COUNTS.unpack_from(raw, start)
        start += _COUNTS.size
        stop = start + client_slots * _CLIENT_SLOT.size
        known = {name: (counter, at) for name, counter, at in _CLIENT_SLOT.iter_unpack(raw[start:stop])}
        end = stop + opaque * REQUEST_ID_BYTES
        if len(raw) < end:
            raise struct.error(end)
        ids = tuple([raw[at : at + REQUEST_ID_BYTES] for at in range(stop, end, REQUEST_ID_BYTES)])
        return cls(client_slots=known, opaque=ids), end
