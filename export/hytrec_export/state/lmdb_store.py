"""The LMDB store: one file, one machine, several processes, durable.

Records are whole values of equal size: their pages are runs of one length, which LMDB reuses without the file growing
(benchmarks/state_store.py measures it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hytrec_export.errors import StoreFullError, StoreUnavailableError
from hytrec_export.state.lmdb_file import LmdbFile, Txn, entries_after
from hytrec_export.state.record import HEADER_BYTES
from hytrec_export.state.rules import RecordRules
from hytrec_export.state.store import Outcome, StoredUser, StoreStat, UserSummary, Write, WriteResult, check_user_id

_SWEPT_PER_WRITE = 2
_SWEPT_PER_BATCH = 6
_WRITES_BETWEEN_READER_CHECKS = 256
_PAGE = 256
_MIN_USERS = 4


class LmdbStore:
    """See `StateStore`.

    Args:
        file: open; closed together with the store.

    Raises:
        StoreUnavailableError: the limit holds no more than a few users.
    """

    def __init__(self, file: LmdbFile, *, rules: RecordRules) -> None:
        self._file = file
        self._rules = rules
        self._swept_to = b""
        self._batches = 0
        needed = 2 * _MIN_USERS * rules.record_bytes
        if file.max_bytes < needed:
            file.close()
            raise StoreUnavailableError(
                f"the state store's limit of {file.max_bytes} bytes is too small for records of {rules.record_bytes} "
                f"bytes; give at least {needed}"
            )

    def read_many(self, user_ids: Sequence[bytes]) -> list[StoredUser]:
        """See `StateStore`.

        Raises:
            InputError: a user id of the wrong size.
            StoreUnavailableError: LMDB fails.
        """
        for user_id in user_ids:
            check_user_id(user_id)
        return self._file.read(lambda txn: [self._rules.read(user_id, txn.get(user_id)) for user_id in user_ids])

    def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        """See `StateStore`. One transaction and, where asked for, one fsync for all; each its own when room is short.

        Raises:
            StateStoreError: a state is not one of this build; nothing is written.
            StoreUnavailableError: LMDB fails; nothing is written.
        """
        records = [self._rules.prepare(write) for write in writes]
        if not writes:
            return []
        if self._batches % _WRITES_BETWEEN_READER_CHECKS == 0:
            self._file.clear_dead_readers()
        self._batches += 1
        try:
            return self._file.change(lambda txn: self._write_all(txn, writes, records))
        except StoreFullError:
            self._file.clear_dead_readers()
            return [self._write_alone(write, record) for write, record in zip(writes, records, strict=True)]

    def forget(self, user_id: bytes) -> bool:
        """See `StateStore`. The bytes stay in freed pages until those are reused or the store is compacted.

        Raises:
            StoreFullError: the store is full and a reader holds every freed page.
        """
        check_user_id(user_id)
        return self._file.delete([user_id]) > 0

    def users(self) -> Iterator[UserSummary]:
        """See `StateStore`."""
        after = b""
        while entries := self._file.page(after, _PAGE, HEADER_BYTES):
            for key, head, size in entries:
                yield self._rules.summary(key, head, size)
            after = entries[-1][0]

    def stat(self) -> StoreStat:
        """See `StateStore`."""
        return self._file.stat()

    def close(self) -> None:
        """See `StateStore`."""
        self._file.close()

    def _write_all(self, txn: Txn, writes: Sequence[Write], records: list[bytearray]) -> list[WriteResult]:
        if self._rules.expires:
            self._sweep(txn, _SWEPT_PER_BATCH + _SWEPT_PER_WRITE * len(writes))
        return [self._write(txn, write, record) for write, record in zip(writes, records, strict=True)]

    def _write_alone(self, write: Write, record: bytearray) -> WriteResult:
        try:
            return self._file.change(lambda txn: self._write(txn, write, record))
        except StoreFullError:
            (stored,) = self.read_many([write.user_id])
            return WriteResult(outcome=Outcome.FULL, event_count=stored.event_count)

    def _write(self, txn: Txn, write: Write, record: bytearray) -> WriteResult:
        raw = txn.get(write.user_id)
        verdict = self._rules.judge(write, raw, record)
        if not verdict.accepted:
            return WriteResult(outcome=Outcome.CONFLICT, event_count=verdict.event_count)
        if (raw is None or len(raw) < len(record)) and not self._file.has_room(txn, len(record)):
            return WriteResult(outcome=Outcome.FULL, event_count=verdict.event_count)
        txn.put(write.user_id, record)
        return WriteResult(outcome=Outcome.WRITTEN, event_count=write.event_count)

    def _sweep(self, txn: Txn, count: int) -> None:
        """Look at the next `count` records, round and round, and delete those past their time."""
        entries = entries_after(txn, self._swept_to, count, HEADER_BYTES)
        for key, head, _ in entries:
            if self._rules.outlived(key, head):
                txn.delete(key)
        self._swept_to = entries[-1][0] if len(entries) == count else b""
