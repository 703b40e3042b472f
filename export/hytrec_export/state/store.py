"""The interface of a state store, and what goes in and out of it.

One store object belongs to one process; its calls may come from several threads. Several processes may open the same
LMDB store. The interface says nothing of where records live, so that a store over a network fits it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.signature import MAX_USER_ID_BYTES, REQUEST_ID_BYTES
from hytrec_export.errors import InputError

State: TypeAlias = dict[str, NDArray[Any]]
"""One user's state: arrays by the names of `hytrec.signature.STATE`, shapes of `Sizes`, no batch axis."""

NO_REVISION = bytes(REQUEST_ID_BYTES)
"""Revision of a user the store holds nothing usable of."""


@dataclass(frozen=True, kw_only=True)
class StoredUser:
    """What a store holds of one user.

    Args:
        state: None unless `status` is FOUND.
        status: NEW, FOUND, DAMAGED, EXPIRED or MODEL_MISMATCH; all but FOUND count as absent.
        revision: request_id of the last write; `NO_REVISION` when absent.
        request_ids: the last calls that were applied, 32 at most; empty when absent.
        event_count: events absorbed; 0 when absent.
    """

    state: State | None
    status: StateStatus
    revision: bytes = NO_REVISION
    request_ids: frozenset[bytes] = field(default_factory=frozenset)
    event_count: int = 0


@dataclass(frozen=True, kw_only=True)
class Write:
    """One compare-and-set: `state` is stored if the user still is at (`expected_revision`, `expected_event_count`).

    The count alone would let a user pass who was forgotten and came back with as many events.

    Raises:
        InputError: a user id or a call id of the wrong size.
    """

    user_id: bytes
    request_id: bytes
    expected_revision: bytes
    expected_event_count: int
    state: State

    def __post_init__(self) -> None:
        check_user_id(self.user_id)
        for name in ("request_id", "expected_revision"):
            size = len(getattr(self, name))
            if size != REQUEST_ID_BYTES:
                raise InputError(f"{name} has {size} bytes; it must have {REQUEST_ID_BYTES}")

    @property
    def event_count(self) -> int:
        """Events absorbed once this write is in."""
        return int(np.asarray(self.state["event_count"]).reshape(-1)[0])


class Outcome(StrEnum):
    """What became of a write."""

    WRITTEN = "written"
    CONFLICT = "conflict"
    """someone else wrote first, or this call is in already: read again and decide anew"""
    FULL = "full"
    """no room; the store is unchanged"""


@dataclass(frozen=True, kw_only=True)
class WriteResult:
    """What became of a write, and the events the store holds of the user after it."""

    outcome: Outcome
    event_count: int


@dataclass(frozen=True, kw_only=True)
class UserSummary:
    """What a record's header says; its arrays are not checked.

    Args:
        written_at: unix seconds of the last write; 0 when the header is damaged.
        fingerprint: of the model that wrote it, 32 hex digits; empty when the header is damaged.
        record_bytes: size of the record, without the store's own overhead; 0 when the header is damaged.
    """

    user_id: bytes
    status: StateStatus
    event_count: int
    written_at: int
    fingerprint: str
    record_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoreStat:
    """How full a store is.

    Args:
        users: records, the unusable ones included.
        used_bytes: live pages; what counts against the limit.
        file_bytes: size of the file; freed pages stay in it and are reused.
        limit_bytes: 0 = no limit.
    """

    users: int
    used_bytes: int
    file_bytes: int
    limit_bytes: int


class StateStore(Protocol):
    """Where user states live."""

    def read_many(self, user_ids: Sequence[bytes]) -> list[StoredUser]:
        """Read users, in order, from one consistent view. The arrays are the caller's own."""

    def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        """Apply writes in order, in one transaction; when this returns, what is WRITTEN is durable.

        A later write of the same user must expect what the earlier one leaves.
        """

    def forget(self, user_id: bytes) -> bool:
        """Delete everything kept of a user; whether there was anything."""

    def users(self) -> Iterator[UserSummary]:
        """Every user, ordered by id. Users that come or go meanwhile may or may not be seen."""

    def stat(self) -> StoreStat:
        """How full the store is."""

    def close(self) -> None:
        """Let go of the store; it cannot be used afterwards."""


def check_user_id(user_id: bytes) -> None:
    """Raises: InputError: an empty or too long user id."""
    if not 1 <= len(user_id) <= MAX_USER_ID_BYTES:
        raise InputError(f"user_id has {len(user_id)} bytes; it must have 1 to {MAX_USER_ID_BYTES}")
