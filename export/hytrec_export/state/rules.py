"""What a record means to one build at one time, and whether a write may replace it: the same for every store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hytrec.contract import Sizes, StateStatus
from hytrec_export.errors import StateStoreError
from hytrec_export.state.record import (
    Buffer,
    Header,
    following_calls,
    parse_header,
    parse_state,
    record_bytes,
    seal,
    unsealed,
)
from hytrec_export.state.store import NO_REVISION, StoredUser, UserSummary, Write

FINGERPRINT_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a write may go in, and the events the store holds of the user without it."""

    accepted: bool
    event_count: int


class RecordRules:
    """Reads and replaces records for one build.

    Args:
        fingerprint: of the model, 32 hex digits; records of another one are MODEL_MISMATCH.
        ttl_s: records not written for so long are expired; None = never.
        clock: unix seconds.

    Raises:
        StateStoreError: the fingerprint is malformed.
    """

    def __init__(
        self, *, sizes: Sizes, fingerprint: str, ttl_s: int | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        if len(fingerprint) != FINGERPRINT_DIGITS or set(fingerprint) - set("0123456789abcdef"):
            raise StateStoreError(f"fingerprint {fingerprint!r} is not {FINGERPRINT_DIGITS} lower-case hex digits")
        self.record_bytes = record_bytes(sizes)
        self._sizes = sizes
        self._fingerprint = fingerprint
        self._ttl_s = ttl_s
        self._clock = clock

    @property
    def expires(self) -> bool:
        """Whether records have a time to live."""
        return self._ttl_s is not None

    def read(self, user_id: bytes, raw: Buffer | None) -> StoredUser:
        """What a record holds; the arrays are copied."""
        header = self._usable_header(user_id, raw)
        if isinstance(header, StateStatus):
            return StoredUser(state=None, status=header)
        state = None if raw is None else parse_state(raw, header)
        if state is None:
            return StoredUser(state=None, status=StateStatus.DAMAGED)
        return StoredUser(
            state=state,
            status=StateStatus.FOUND,
            revision=header.revision,
            request_ids=header.request_ids,
            event_count=header.event_count,
        )

    def summary(self, user_id: bytes, raw: Buffer) -> UserSummary:
        """What the header alone says; `raw` may end with it."""
        header = self._usable_header(user_id, raw)
        return summary(user_id, raw, status=header if isinstance(header, StateStatus) else StateStatus.FOUND)

    def outlived(self, user_id: bytes, raw: Buffer) -> bool:
        """Whether a record, of whatever model, is past its time to live; `raw` may end with the header."""
        header = parse_header(raw, user_id)
        return not isinstance(header, StateStatus) and expired(header, self._ttl_s, self._clock())

    def prepare(self, write: Write) -> bytearray:
        """The record of a write, its header still empty; done outside the transaction.

        Raises:
            StateStoreError: the state is not one of this build.
        """
        return unsealed(write.state, self._sizes)

    def judge(self, write: Write, raw: Buffer | None, record: bytearray) -> Verdict:
        """Compare-and-set; an accepted write's `record` is sealed and ready to be stored in place of `raw`."""
        header = self._usable_header(write.user_id, raw)
        previous = None if isinstance(header, StateStatus) else header
        if not _expects(write, previous) and previous and raw is not None and parse_state(raw, previous) is None:
            previous = None  # damaged arrays: a reader was told that there is nothing
        if not _expects(write, previous) or (previous and write.request_id in previous.request_ids):
            return Verdict(accepted=False, event_count=previous.event_count if previous else 0)
        calls, ring = following_calls(previous, write.request_id)
        sealed = Header(
            sizes=self._sizes,
            fingerprint=self._fingerprint,
            written_at=int(self._clock()),
            event_count=write.event_count,
            calls=calls,
            ring=ring,
        )
        seal(record, sealed, write.user_id)
        return Verdict(accepted=True, event_count=previous.event_count if previous else 0)

    def _usable_header(self, user_id: bytes, raw: Buffer | None) -> Header | StateStatus:
        """The header, or why it is not to be used."""
        if raw is None:
            return StateStatus.NEW
        header = parse_header(raw, user_id)
        if isinstance(header, StateStatus):
            return header
        if header.fingerprint != self._fingerprint:
            return StateStatus.MODEL_MISMATCH
        return StateStatus.EXPIRED if expired(header, self._ttl_s, self._clock()) else header


def expired(header: Header, ttl_s: int | None, now: float) -> bool:
    """Whether a record outlived its time; one from a clock ahead of ours did not."""
    return ttl_s is not None and header.written_at + ttl_s <= now


def summary(user_id: bytes, raw: Buffer, *, status: StateStatus) -> UserSummary:
    """What the header says, under a status that the caller found."""
    header = parse_header(raw, user_id)
    known = None if isinstance(header, StateStatus) else header
    return UserSummary(
        user_id=user_id,
        status=status,
        event_count=known.event_count if known else 0,
        written_at=known.written_at if known else 0,
        fingerprint=known.fingerprint if known else "",
        record_bytes=record_bytes(known.sizes) if known else 0,
    )


def _expects(write: Write, previous: Header | None) -> bool:
    revision, count = (previous.revision, previous.event_count) if previous else (NO_REVISION, 0)
    return (write.expected_revision, write.expected_event_count) == (revision, count)
