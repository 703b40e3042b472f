"""A store in this process's memory: for unit tests. The models of a server are several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock

from hytrec_export.state.rules import RecordRules
from hytrec_export.state.store import Outcome, StoredUser, StoreStat, UserSummary, Write, WriteResult, check_user_id


class MemoryStore:
    """Records in a dict, the very bytes that the LMDB store would hold.

    Args:
        max_bytes: limit on the records' bytes.
    """

    def __init__(self, *, rules: RecordRules, max_bytes: int) -> None:
        self.records: dict[bytes, bytes] = {}
        self._rules = rules
        self._max_bytes = max_bytes
        self._lock = Lock()

    def read_many(self, user_ids: Sequence[bytes]) -> list[StoredUser]:
        """See `StateStore`."""
        for user_id in user_ids:
            check_user_id(user_id)
        with self._lock:
            return [self._rules.read(user_id, self.records.get(user_id)) for user_id in user_ids]

    def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        """See `StateStore`."""
        records = [self._rules.prepare(write) for write in writes]
        with self._lock:
            if self._rules.expires:
                self._sweep()
            return [self._write(write, record) for write, record in zip(writes, records, strict=True)]

    def forget(self, user_id: bytes) -> bool:
        """See `StateStore`."""
        check_user_id(user_id)
        with self._lock:
            return self.records.pop(user_id, None) is not None

    def users(self) -> Iterator[UserSummary]:
        """See `StateStore`."""
        with self._lock:
            records = sorted(self.records.items())
        for user_id, raw in records:
            yield self._rules.summary(user_id, raw)

    def stat(self) -> StoreStat:
        """See `StateStore`."""
        used = sum(map(len, self.records.values()))
        return StoreStat(users=len(self.records), used_bytes=used, file_bytes=used, limit_bytes=self._max_bytes)

    def close(self) -> None:
        """See `StateStore`."""

    def _write(self, write: Write, record: bytearray) -> WriteResult:
        raw = self.records.get(write.user_id)
        verdict = self._rules.judge(write, raw, record)
        if not verdict.accepted:
            return WriteResult(outcome=Outcome.CONFLICT, event_count=verdict.event_count)
        growth = len(record) - len(raw or b"")
        if growth > 0 and self.stat().used_bytes + growth > self._max_bytes:
            return WriteResult(outcome=Outcome.FULL, event_count=verdict.event_count)
        self.records[write.user_id] = bytes(record)
        return WriteResult(outcome=Outcome.WRITTEN, event_count=write.event_count)

    def _sweep(self) -> None:
        for user_id in [u for u, raw in self.records.items() if self._rules.outlived(u, raw)]:
            del self.records[user_id]
