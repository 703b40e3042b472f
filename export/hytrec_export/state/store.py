"""What goes in and out of a state store. The events are the truth; the encoder's state is a cache of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.signature import MAX_USER_ID_BYTES, REQUEST_ID_BYTES, UNCHECKED_EVENT_COUNT
from hytrec_export.errors import InputError
from hytrec_export.state.events import DIGEST_BYTES, StoredEvents

REVISION_BYTES = 2 * DIGEST_BYTES
NO_REVISION = bytes(REVISION_BYTES)
"""Revision of a user the store holds nothing usable of."""


@dataclass(frozen=True, kw_only=True)
class UserRead:
    """What a request needs to know of its user.

    Args:
        request_id: 16 bytes.
        events: that the request brings.
        append_only: the state is not needed, unless a snapshot is due.
    """

    user_id: bytes
    request_id: bytes = bytes(REQUEST_ID_BYTES)
    events: int = 0
    append_only: bool = False

    def __post_init__(self) -> None:
        """Raises: InputError: a user id of the wrong size."""
        check_user_id(self.user_id)


@dataclass(kw_only=True, eq=False)
class StoredUser:
    """What a store holds of one user.

    Args:
        status: NEW, FOUND, REBUILT, DAMAGED, EXPIRED or TRUNCATED.
        revision: names the history; `NO_REVISION` when absent.
        event_count: of the history; 0 when absent.
        replayed: whether the request was applied before.
        first: events at the history's start that are not stored any more.
        base: n, the events that `state` has absorbed.
        state: tensors of `snapshot.SNAPSHOT` after the first n events; None = no event was absorbed.
        start: number of the first of `events`, at most max(first, n - W).
        events: start to event_count.
        complete: False where state and events were not read: not needed, or more than the caller's limit to encode.
        kept: events of the snapshot that is stored, as far as is known; 0 without one.
        due: whether a snapshot should be written after this request.
        blind: whether `state` has absorbed an item that is unknown to the catalog.
    """

    status: StateStatus
    events: StoredEvents
    revision: bytes = NO_REVISION
    event_count: int = 0
    replayed: bool = False
    first: int = 0
    base: int = 0
    state: dict[str, NDArray[Any]] | None = None
    start: int = 0
    complete: bool = True
    kept: int = 0
    due: bool = False
    blind: bool = False

    @property
    def gap(self) -> int:
        """Stored events that the state has not absorbed."""
        return self.event_count - self.base


@dataclass(kw_only=True, eq=False)
class UserWrite:
    """One compare-and-set: events are appended if the user still is at `revision` with `event_count` events.

    Args:
        request_id: 16 bytes; zeros for one that is not repeated.
        events: one at least.
        first: events at the history's start that the reader could not use.
        replace: the events become the whole history, of a new incarnation.

    Raises:
        InputError: a user id, a request id or a revision of the wrong size.
    """

    user_id: bytes
    request_id: bytes
    revision: bytes
    event_count: int
    events: StoredEvents
    first: int = 0
    replace: bool = False

    def __post_init__(self) -> None:
        check_user_id(self.user_id)
        _check_size("request_id", self.request_id, REQUEST_ID_BYTES)
        _check_size("revision", self.revision, REVISION_BYTES)


@dataclass(kw_only=True, eq=False)
class UserAppend:
    """Events for the end of a user's history, whatever that is by now.

    Args:
        request_id: 16 bytes, not zeros: without an id, a write that was not answered for would be made again.
        events: one at least.
        expected_event_count: before them; `UNCHECKED_EVENT_COUNT` for any.

    Raises:
        InputError: a user id or a request id of the wrong size.
    """

    user_id: bytes
    request_id: bytes
    events: StoredEvents
    expected_event_count: int = UNCHECKED_EVENT_COUNT

    def __post_init__(self) -> None:
        check_user_id(self.user_id)
        _check_size("request_id", self.request_id, REQUEST_ID_BYTES)


class Outcome(StrEnum):
    """What became of a write."""

    WRITTEN = "written"
    CONFLICT = "conflict"
    """someone else wrote first, or this request is in already: read again and decide anew"""
    FULL = "full"
    """no room; the store is unchanged"""
    CROWDED = "crowded"
    """too many callers write to this user; the store is unchanged"""
    REPLAYED = "replayed"
    """of an append: this request is in already"""


@dataclass(kw_only=True)
class WriteResult:
    """What became of a write, and what the store holds of the user after it.

    Args:
        due: of an append: whether a snapshot is due now.
    """

    outcome: Outcome
    event_count: int
    revision: bytes = NO_REVISION
    due: bool = False


@dataclass(kw_only=True, eq=False)
class NewSnapshot:
    """A state to keep.

    Args:
        revision: of the history after `event_count` events.
        state: tensors of `snapshot.SNAPSHOT` after them.
        kept: events of the snapshot that was stored before, as far as is known.
        blind_to: mark of the catalog to which an item of these events was unknown; empty where none was, or where
            catalogs do not change.
    """

    user_id: bytes
    revision: bytes
    event_count: int
    state: dict[str, NDArray[Any]]
    kept: int = 0
    blind_to: bytes = b""


@dataclass(frozen=True, kw_only=True)
class UserSummary:
    """What a head says.

    Args:
        written_at: unix seconds of the last write; 0 when the head is damaged.
        first: events that are not stored any more.
        stored_bytes: of head and chunks, without the store's own overhead; None where not asked for.
    """

    user_id: bytes
    status: StateStatus
    event_count: int
    written_at: int
    first: int = 0
    stored_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class StoreStat:
    """How full a store is.

    Args:
        users: heads, the unusable ones included.
        used_bytes: of heads and history; what counts against the limit.
        file_bytes: size of the file; freed pages stay in it and are reused.
        limit_bytes: 0 = no limit.
        snapshots: of all models.
        snapshot_bytes: size of their files.
    """

    users: int
    used_bytes: int
    file_bytes: int
    limit_bytes: int
    snapshots: int = 0
    snapshot_bytes: int = 0


def check_user_id(user_id: bytes) -> None:
    """Raises: InputError: an empty or too long user id."""
    if not 1 <= len(user_id) <= MAX_USER_ID_BYTES:
        raise InputError(f"user_id has {len(user_id)} bytes; it must have 1 to {MAX_USER_ID_BYTES}")


def _check_size(name: str, value: bytes, expected: int) -> None:
    if len(value) != expected:
        raise InputError(f"{name} has {len(value)} bytes; it must have {expected}")
