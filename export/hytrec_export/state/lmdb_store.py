"""The LMDB store: one file, one machine, several processes, durable.

Records are of equal size, so that their pages are runs of one length, which LMDB reuses without the file growing
(benchmarks/state_store.py measures it). Only where a file is so full that no run is left are they split.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress

from hytrec_export.errors import StoreFullError, StoreUnavailableError
from hytrec_export.state.lmdb_file import LmdbFile
from hytrec_export.state.lmdb_values import Txn
from hytrec_export.state.rules import RecordRules
from hytrec_export.state.store import Outcome, StoredUser, StoreStat, UserSummary, Write, WriteResult, check_user_id

_SWEPT_PER_WRITE = 2
_SWEPT_PER_BATCH = 6
_WRITES_BETWEEN_READER_CHECKS = 256
_PAGE = 256
_MIN_USERS = 4
_BATCHES_IN_PIECES = 64
"""After a write that only fitted in pieces, so long nothing else is tried."""
_LOG = logging.getLogger(__name__)


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
        self._in_pieces_until = 0
        self._out_of_room = False
        needed = _MIN_USERS * file.values.paged(rules.record_bytes) + file.reserved_bytes(rules.record_bytes)
        if file.max_bytes < needed:
            file.close()
            raise StoreUnavailableError(
                f"the state store's limit of {file.max_bytes} bytes is too small for records of {rules.record_bytes} "
                f"bytes; give at least {2 * needed}"
            )

    def read_many(self, user_ids: Sequence[bytes]) -> list[StoredUser]:
        """See `StateStore`.

        Raises:
            InputError: a user id of the wrong size.
            StoreUnavailableError: LMDB fails.
        """
        for user_id in user_ids:
            check_user_id(user_id)
        values, rules = self._file.values, self._rules
        return self._file.read(lambda txn: [rules.read(user_id, values.get(txn, user_id)) for user_id in user_ids])

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
            results = self._file.change(lambda txn: self._write_all(txn, writes, records))
        except StoreFullError:
            return self._write_each(writes, records)
        self._out_of_room = False
        return results

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
        while heads := self._file.heads_after(after, _PAGE):
            for key, head in heads:
                yield self._rules.summary(key, head)
            after = heads[-1][0]

    def stat(self) -> StoreStat:
        """See `StateStore`."""
        return self._file.stat()

    def close(self) -> None:
        """See `StateStore`."""
        self._file.close()

    def _write_all(self, txn: Txn, writes: Sequence[Write], records: list[bytearray]) -> list[WriteResult]:
        self._sweep(txn, len(writes))
        in_pieces = self._batches < self._in_pieces_until
        return [
            self._write(txn, write, record, in_pieces=in_pieces) for write, record in zip(writes, records, strict=True)
        ]

    def _write_each(self, writes: Sequence[Write], records: list[bytearray]) -> list[WriteResult]:
        """Every write in a transaction of its own, so that those that fit go in."""
        self._file.clear_dead_readers()
        with suppress(StoreFullError):
            self._file.change(lambda txn: self._sweep(txn, len(writes)))
        return [self._write_alone(write, record) for write, record in zip(writes, records, strict=True)]

    def _write_alone(self, write: Write, record: bytearray) -> WriteResult:
        try:
            return self._file.change(lambda txn: self._write(txn, write, record, in_pieces=False))
        except StoreFullError:
            pass
        try:
            result = self._file.change(lambda txn: self._write(txn, write, record, in_pieces=True))
        except StoreFullError as error:
            if not self._out_of_room:
                _LOG.warning("%s", error)
            self._out_of_room = True
            (stored,) = self.read_many([write.user_id])
            return WriteResult(outcome=Outcome.FULL, event_count=stored.event_count)
        self._in_pieces_until = self._batches + _BATCHES_IN_PIECES
        return result

    def _write(self, txn: Txn, write: Write, record: bytearray, *, in_pieces: bool) -> WriteResult:
        raw = self._file.values.get(txn, write.user_id)
        verdict = self._rules.judge(write, raw, record)
        if not verdict.accepted:
            return WriteResult(outcome=Outcome.CONFLICT, event_count=verdict.event_count)
        if (raw is None or len(raw) < len(record)) and not self._file.has_room(txn, len(record)):
            return WriteResult(outcome=Outcome.FULL, event_count=verdict.event_count)
        self._file.values.put(txn, write.user_id, record, in_pieces=in_pieces)
        return WriteResult(outcome=Outcome.WRITTEN, event_count=write.event_count)

    def _sweep(self, txn: Txn, writes: int) -> None:
        """Look at the next few records, round and round, and delete those past their time."""
        if not self._rules.expires:
            return
        count = _SWEPT_PER_BATCH + _SWEPT_PER_WRITE * writes
        heads = self._file.values.heads_after(txn, self._swept_to, count)
        for key, head in heads:
            if self._rules.outlived(key, head):
                self._file.values.delete(txn, key)
        self._swept_to = heads[-1][0] if len(heads) == count else b""
