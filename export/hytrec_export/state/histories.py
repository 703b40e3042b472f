"""Users' histories in a record engine: what is written, read, listed, forgotten. Snapshots are apart (`users`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from hytrec.contract import StateStatus
from hytrec_export.errors import StoreFullError
from hytrec_export.state.engine import Burial, Decision, RecordEngine, UserChange, UserRecords
from hytrec_export.state.head import Head, unpack_head
from hytrec_export.state.history import History, chunks_from
from hytrec_export.state.rules import HistoryRules
from hytrec_export.state.snapshot import SnapshotHeader
from hytrec_export.state.store import (
    Outcome,
    StoreStat,
    UserAppend,
    UserSummary,
    UserWrite,
    WriteResult,
    check_user_id,
)
from hytrec_export.state.url import StoreUrl

Decided = tuple[WriteResult, UserChange | None]
Rule = Callable[[int, UserRecords], Decided | None]
"""Position of a user in a call, what is stored -> what becomes of it; None changes nothing and has no result."""
_PAGE = 256
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotsApart:
    """Where the last server of a store kept snapshots, if elsewhere.

    Args:
        max_bytes: of all models' snapshots.
    """

    url: StoreUrl
    max_bytes: int

    @classmethod
    def told(cls, url: str | None, max_bytes: int) -> SnapshotsApart | None:
        """From what a store remembers; None where they lie in it."""
        return None if url is None else cls(StoreUrl.parse(url), max_bytes)


class HistoryStore:
    """Histories of users. One object per process; several threads may use it.

    Args:
        engine: closed together with the store.
    """

    def __init__(self, engine: RecordEngine, *, rules: HistoryRules) -> None:
        self.engine = engine
        self.rules = rules
        self.apart: SnapshotsApart | None = None
        self._out_of_room = False

    def history(self, user_id: bytes) -> History | None:
        """Everything stored of a user's history; None where there is no usable head.

        Raises:
            StoreUnavailableError: the store cannot be read.
        """
        check_user_id(user_id)
        ((_, history),) = self.histories([user_id])
        return history

    def histories(self, user_ids: Sequence[bytes]) -> list[tuple[UserRecords, History | None]]:
        """What is stored of users, in order, and everything of their histories; None where there is no usable head.

        Raises:
            StoreUnavailableError: the store cannot be read.
        """
        wanted: dict[int, range] = {}

        def everything(position: int, raw: bytes) -> range:
            head = self.rules.usable(user_ids[position], raw)
            wanted[position] = chunks_from(head, head.first) if isinstance(head, Head) else range(0)
            return wanted[position]

        found = self.engine.read_many(user_ids, everything)
        return [
            (records, self._history(user_id, records, wanted.get(position, range(0))))
            for position, (user_id, records) in enumerate(zip(user_ids, found, strict=True))
        ]

    def _history(self, user_id: bytes, records: UserRecords, wanted: range) -> History | None:
        head = self.rules.usable(user_id, records.head)
        return History.read(head, records.chunks, self.rules.types, wanted) if isinstance(head, Head) else None

    def summary(self, user_id: bytes) -> UserSummary | None:
        """What a user's head says; None where there is none."""
        check_user_id(user_id)
        (records,) = self.engine.read_many([user_id], lambda _position, _head: range(0))
        return None if records.head is None else summary(self.rules, user_id, records.head)

    def compact(self) -> None:
        """Give freed space back to the disk; nobody else may have the store open.

        Raises:
            StoreUnavailableError: the disk has no room for the copy.
        """
        self.engine.compact()

    def write_many(self, writes: Sequence[UserWrite]) -> list[WriteResult]:
        """Apply writes in order; when this returns, what is WRITTEN is durable.

        A later write of the same user must expect what the earlier one leaves.

        Raises:
            StoreUnavailableError: the engine fails; nothing is written, or, over a network, some of it.
        """
        if not writes:
            return []
        results: dict[int, WriteResult] = {}
        try:
            self._write(writes, results)
        except StoreFullError as error:
            if not self._out_of_room:
                _LOG.warning("%s", error)
            self._out_of_room = True
            return [
                results[position] if position in error.stored else self._write_alone(write)
                for position, write in enumerate(writes)
            ]
        self._out_of_room = False
        return [results[position] for position in range(len(writes))]

    def append_many(
        self, appends: Sequence[UserAppend], headers: Sequence[SnapshotHeader | None], *, every: int, may_wait: bool
    ) -> list[WriteResult | None]:
        """Append to sound histories, see `HistoryRules.append`; None for whom nothing was written.

        Raises:
            StoreUnavailableError: as `write_many`.
        """
        results: dict[int, WriteResult] = {}
        stored: Collection[int] = range(len(appends))

        def rule(position: int, records: UserRecords) -> Decided | None:
            return self.rules.append(appends[position], records, headers[position], every=every, may_wait=may_wait)

        try:
            self._change([append.user_id for append in appends], rule, results)
        except StoreFullError as error:
            stored = error.stored
        found = [results.get(position) if position in stored else None for position in range(len(appends))]
        if replayed := [
            append.user_id
            for append, result in zip(appends, found, strict=True)
            if result is not None and result.outcome is Outcome.REPLAYED
        ]:
            self.engine.confirm(replayed)
        return found

    def forget(self, user_id: bytes) -> bool:
        """Delete everything kept of a user but the ids of applied requests; whether there was anything.

        Raises:
            StoreFullError: the store is full, and the deletion itself finds no room, or cannot be noted.
        """
        check_user_id(user_id)
        return self.engine.forget(user_id, partial(self.rules.bury, user_id, noted=True))

    def drop(self, user_id: bytes) -> bool:
        """`forget` of records that are of no use any more: a restored backup may hold the user."""
        return self.engine.forget(user_id, partial(self.rules.bury, user_id, noted=False))

    def forget_expired(self, user_id: bytes) -> bool:
        """`drop` of a user who is expired still; one who was written meanwhile stays."""
        return self.engine.forget(user_id, partial(self._bury_expired, user_id))

    def users(self) -> Iterator[UserSummary]:
        """Every user, ordered by id. Users that come or go meanwhile may or may not be seen."""
        after = b""
        while heads := self.engine.heads_after(after, _PAGE):
            for user_id, raw in heads:
                yield summary(self.rules, user_id, raw)
            after = heads[-1][0]

    def stat(self) -> StoreStat:
        """How full the store is."""
        return self.engine.stat()

    def close(self) -> None:
        """Let go of the store; it cannot be used afterwards."""
        self.engine.close()

    def _bury_expired(self, user_id: bytes, records: UserRecords) -> Burial | None:
        expired = records.head and self.rules.judged(user_id, records.head) is StateStatus.EXPIRED
        return self.rules.bury(user_id, records, noted=False) if expired else None

    def _write(self, writes: Sequence[UserWrite], results: dict[int, WriteResult]) -> None:
        self._change(
            [write.user_id for write in writes],
            lambda position, records: self.rules.decide(writes[position], records),
            results,
        )

    def _change(self, user_ids: Sequence[bytes], rule: Rule, results: dict[int, WriteResult]) -> None:
        """Change users as a rule says, and put into `results` what it decided last, by position."""

        def decide(position: int, records: UserRecords) -> UserChange | None:
            results.pop(position, None)
            decided = rule(position, records)
            if decided is None:
                return None
            results[position], change = decided
            return change

        decisions: list[Decision] = [partial(decide, position) for position in range(len(user_ids))]
        self.engine.change_many(user_ids, decisions)

    def _write_alone(self, write: UserWrite) -> WriteResult:
        results: dict[int, WriteResult] = {}
        try:
            self._write([write], results)
            return results[0]
        except StoreFullError:
            found = self.summary(write.user_id)
            return WriteResult(outcome=Outcome.FULL, event_count=found.event_count if found else 0)


def summary(rules: HistoryRules, user_id: bytes, raw: bytes) -> UserSummary:
    """What a head says."""
    head = rules.usable(user_id, raw)
    if head is StateStatus.EXPIRED:
        head = unpack_head(raw, user_id, rules.types) or head
        status = StateStatus.EXPIRED
    else:
        status = head if isinstance(head, StateStatus) else StateStatus.FOUND
    if not isinstance(head, Head):
        return UserSummary(user_id=user_id, status=status, event_count=0, written_at=0)
    return UserSummary(
        user_id=user_id, status=status, event_count=head.event_count, written_at=head.written_at, first=head.first
    )
