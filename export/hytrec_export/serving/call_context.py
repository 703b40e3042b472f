"""The call context: what the save step needs to know of a request, from the load step.

Between models it goes as opaque bytes, within a process as it is. The bytes are signed (keyed BLAKE2b) with a key of
each start of the server, which its processes have in their environment. Where every step is a model, any client may
call `hytrec_state_save` itself, and could else write whatever it likes.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.signature import MAX_USER_ID_BYTES, REQUEST_ID_BYTES
from hytrec_export.errors import InputError
from hytrec_export.settings import CALL_KEY_VARIABLE
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.store import REVISION_BYTES

_STATUSES = frozenset(StateStatus)
_MARK = b"HYT6"
_SIGNATURE_BYTES = 16
MARK_BYTES = 16
_FIXED = struct.Struct(f"<4s{REQUEST_ID_BYTES}s{REVISION_BYTES}sqqqqqIB???IiH{MARK_BYTES}s")

GIVE_UP_AT = "give_up_at_ns"
"""Input that the server itself adds: (1, 1) int64, the time on its monotonic clock at which the client gives up."""
NEVER = (1 << 63) - 1
"""`GIVE_UP_AT` of a client that waits for ever."""
EVERY_ROW = (1 << 63) - 1
"""`last_item_row` that leaves nothing out."""
NO_CANDIDATES = -1
"""`candidate_count` of a request that does not rank."""


@dataclass(kw_only=True)
class CallContext:
    """One request on its way through the steps.

    Args:
        user_id: the caller's user id.
        request_id: 16 bytes, one per logical request; zeros where the caller gave none.
        revision: of the history that the request started from (compare-and-set).
        event_count: of that history.
        kept: events of the snapshot that is stored.
        first: events at its start that are not stored or cannot be used.
        events: events of this request that are applied; 0 writes none.
        status: what the store held.
        due: whether the state after this request is to be kept as a snapshot.
        replace: whether the events become the whole history.
        fallback: whether the user gets the fallback list, in its order.
        top_k: how many items to return.
        candidate_count: candidates to rank, or `NO_CANDIDATES`.
        last_item_row: of the catalog that the request began with; what was added later is not recommended to it.
        blind_to: see `state.store.NewSnapshot`.
        give_up_at_ns: when the client gives up, on the clock of `time.monotonic_ns`; nothing is written after it.
        new_events: the events that are applied, as `state.event_codec` writes them; empty where there are none.
        given_events: the same, where all steps are in one process and `new_events` is left empty.
    """

    user_id: bytes
    request_id: bytes
    revision: bytes
    event_count: int
    events: int
    status: StateStatus
    top_k: int
    candidate_count: int = NO_CANDIDATES
    first: int = 0
    kept: int = 0
    due: bool = False
    replace: bool = False
    fallback: bool = False
    give_up_at_ns: int = NEVER
    last_item_row: int = EVERY_ROW
    blind_to: bytes = b""
    new_events: bytes = b""
    given_events: StoredEvents | None = field(default=None, compare=False, repr=False)

    @property
    def next_event_count(self) -> int:
        """Events of the history once this request is applied."""
        return self.events if self.replace else self.event_count + self.events

    def pack(self) -> NDArray[np.uint8]:
        """The context as (Z,) uint8: a signature of the rest, a fixed part, the user id, the new events."""
        fixed = _FIXED.pack(
            _MARK,
            self.request_id,
            self.revision,
            self.event_count,
            self.first,
            self.kept,
            self.give_up_at_ns,
            self.last_item_row,
            self.events,
            self.status,
            self.due,
            self.replace,
            self.fallback,
            self.top_k,
            self.candidate_count,
            len(self.user_id),
            self.blind_to,
        )
        body = fixed + self.user_id + self.new_events
        return np.frombuffer(_signature(body) + body, np.uint8)

    def handed_over(self) -> NDArray[np.object_]:
        """The context as (1,) objects, for a step in the same process."""
        tensor = np.empty(1, object)
        tensor[0] = self
        return tensor

    @classmethod
    def of(cls, tensor: NDArray[Any]) -> CallContext:
        """The context in a tensor that `pack` or `handed_over` made.

        Raises:
            InputError: see `unpack`.
        """
        return tensor[0] if tensor.dtype == object and isinstance(tensor[0], cls) else cls.unpack(tensor)

    @classmethod
    def unpack(cls, packed: NDArray[np.uint8]) -> CallContext:
        """Read what `pack` wrote, (Z,) uint8.

        Raises:
            InputError: it is no call context of this server; only a request that bypasses the load step can bring one.
        """
        whole = packed.tobytes()
        signature, data = whole[:_SIGNATURE_BYTES], whole[_SIGNATURE_BYTES:]
        if len(data) < _FIXED.size or not data.startswith(_MARK) or not compare_digest(signature, _signature(data)):
            raise _unknown(len(whole))
        (
            _,
            request_id,
            revision,
            event_count,
            first,
            kept,
            give_up_at_ns,
            last_item_row,
            events,
            status,
            due,
            replace,
            fallback,
            top_k,
            candidate_count,
            size,
            mark,
        ) = _FIXED.unpack_from(data)
        end = _FIXED.size + size
        if not 1 <= size <= MAX_USER_ID_BYTES or len(data) < end:
            raise _unknown(len(whole))
        if status not in _STATUSES:
            raise InputError(f"call_context has the unknown state_status {status}; use an ensemble instead")
        return cls(
            user_id=data[_FIXED.size : end],
            request_id=request_id,
            revision=revision,
            event_count=event_count,
            first=first,
            kept=kept,
            give_up_at_ns=give_up_at_ns,
            last_item_row=last_item_row,
            blind_to=mark if any(mark) else b"",
            events=events,
            status=StateStatus(status),
            due=due,
            replace=replace,
            fallback=fallback,
            top_k=top_k,
            candidate_count=candidate_count,
            new_events=data[end:],
        )


def _signature(body: bytes) -> bytes:
    """Of the server's key; without one, as in a test, it only finds damage."""
    return blake2b(
        body, digest_size=_SIGNATURE_BYTES, key=bytes.fromhex(os.environ.get(CALL_KEY_VARIABLE, ""))
    ).digest()


def _unknown(size: int) -> InputError:
    return InputError(f"call_context of {size} bytes is not one of hytrec_state_load; use an ensemble instead")
