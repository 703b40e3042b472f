"""The call context: what the save step needs to know of a request, packed by the load step as opaque bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.signature import MAX_USER_ID_BYTES, REQUEST_ID_BYTES
from hytrec_export.errors import InputError

_STATUSES = frozenset(StateStatus)
_MARK = b"HYT1"
_FIXED = struct.Struct(f"<4s{REQUEST_ID_BYTES}s{REQUEST_ID_BYTES}sqIBIi")

NO_CANDIDATES = -1
"""`candidate_count` of a request that does not rank."""


@dataclass(frozen=True, kw_only=True)
class CallContext:
    """One request on its way through the steps.

    Args:
        user_id: the caller's user id.
        request_id: 16 bytes, one per logical request.
        revision: 16 bytes, of the stored record that the request started from (compare-and-set).
        event_count: of that record.
        events: events of this request that are applied; 0 writes nothing.
        status: what the store held.
        top_k: how many items to return.
        candidate_count: candidates to rank, or `NO_CANDIDATES`.
    """

    user_id: bytes
    request_id: bytes
    revision: bytes
    event_count: int
    events: int
    status: StateStatus
    top_k: int
    candidate_count: int = NO_CANDIDATES

    def pack(self) -> NDArray[np.uint8]:
        """The context as (Z,) uint8: a fixed part of 57 bytes, then the user id."""
        fixed = _FIXED.pack(
            _MARK,
            self.request_id,
            self.revision,
            self.event_count,
            self.events,
            self.status,
            self.top_k,
            self.candidate_count,
        )
        return np.frombuffer(fixed + self.user_id, np.uint8)

    @classmethod
    def unpack(cls, packed: NDArray[np.uint8]) -> CallContext:
        """Read what `pack` wrote, (Z,) uint8.

        Raises:
            InputError: it is no call context; only a request that bypasses the load step can bring one.
        """
        data = packed.tobytes()
        size = len(data) - _FIXED.size
        if not 1 <= size <= MAX_USER_ID_BYTES or not data.startswith(_MARK):
            raise InputError(
                f"call_context of {len(data)} bytes is not one of hytrec_state_load; use an ensemble instead"
            )
        _, request_id, revision, event_count, events, status, top_k, candidate_count = _FIXED.unpack_from(data)
        if status not in _STATUSES:
            raise InputError(f"call_context has the unknown state_status {status}; use an ensemble instead")
        return cls(
            user_id=data[_FIXED.size :],
            request_id=request_id,
            revision=revision,
            event_count=event_count,
            events=events,
            status=StateStatus(status),
            top_k=top_k,
            candidate_count=candidate_count,
        )
