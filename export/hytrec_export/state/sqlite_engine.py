"""Heads, chunks and tombstones in SQLite. See `RecordEngine`.

A head and its open chunk are one row, so that an append mostly rewrites one page. A nearly full store takes no new
users, so that those it has can go on for a while.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence

from hytrec_export.errors import StateStoreError, StoreFullError, StoreUnavailableError
from hytrec_export.state.engine import Burial, ChunksWanted, Decision, UserChange, UserRecords
from hytrec_export.state.forgotten import FORGOTTEN_FILE, ForgottenLog, hashed
from hytrec_export.state.snapshot_file import SnapshotFiles
from hytrec_export.state.sqlite_file import SqliteFile
from hytrec_export.state.store import StoreStat

TOMBSTONE_LIFE_S = 24 * 3600
_SEEN = 64
"""A server batch reads no more users."""


class SqliteEngine:
    """See `RecordEngine`.

    Args:
        file: open; closed together with the engine.
        snapshots: of all models, in the same folder.
    """

    def __init__(self, file: SqliteFile, snapshots: SnapshotFiles) -> None:
        self.file = file
        self._snapshots = snapshots
        self._seen: dict[bytes, tuple[int | None, UserRecords]] = {}  # by the last reads: writes mostly follow
        self._forgotten = ForgottenLog(file.path.with_name(FORGOTTEN_FILE))
        self._salt: bytes = file.read(
            lambda connection: connection.execute("SELECT value FROM facts WHERE name = 'salt'").fetchone()[0]
        )

    def read_many(self, user_ids: Sequence[bytes], wanted: ChunksWanted) -> list[UserRecords]:
        """See `RecordEngine`; all users are of one view."""
        seen: dict[bytes, tuple[int | None, UserRecords]] = {}

        def visit(connection: sqlite3.Connection) -> list[UserRecords]:
            for user_id in user_ids:
                seen[user_id] = self._stored(connection, user_id)
            return [
                _with_chunks(connection, *seen[user_id], position, wanted) for position, user_id in enumerate(user_ids)
            ]

        found = self.file.read(visit)
        self._seen = seen if len(self._seen) > _SEEN else self._seen | seen
        return found

    def change_many(self, user_ids: Sequence[bytes], decisions: Sequence[Decision]) -> None:
        """See `RecordEngine`; one transaction for all.

        By records that were read before it is decided outside the transaction, so that others wait for less, and again
        inside where another process was faster. Where none were read it is decided inside.
        """
        seen = [self._seen.pop(user_id, None) for user_id in user_ids]
        changes = [known and decide(known[1]) for decide, known in zip(decisions, seen, strict=True)]

        def apply(connection: sqlite3.Connection) -> bool:
            dropped = False
            for user_id, decide, known, decided in zip(user_ids, decisions, seen, changes, strict=True):
                if known and decided and _replaced(connection, *known, decided):
                    continue
                row, records = self._stored(connection, user_id)
                change = decided if known and records == known[1] else decide(records)
                if change:
                    self._store(connection, user_id, row, change)
                    dropped |= change.fresh and row is not None
            return dropped

        if self.file.change(apply):
            self.file.purge()

    def drop_seen(self) -> None:
        """Drop what was read last: a user may have been forgotten by another process."""
        self._seen = {}

    def forget(self, user_id: bytes, bury: Callable[[UserRecords], Burial | None]) -> bool:
        """See `RecordEngine`. What the log still holds is gone a moment later."""
        burial: Burial | None = None

        def apply(connection: sqlite3.Connection) -> bool:
            nonlocal burial
            row, records = self._stored(connection, user_id)
            burial = bury(records)
            if burial is None:
                return False
            now_s = int(time.time())
            connection.execute("DELETE FROM tombstones WHERE made_at < ?", (now_s - TOMBSTONE_LIFE_S,))
            buried = (self._hash(user_id), now_s, burial.tombstone)
            connection.execute("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", buried)
            if row is None:
                return False
            self._drop(connection, row)
            connection.execute("DELETE FROM users WHERE id = ?", (row,))
            return True

        try:
            forgotten = self.file.change(apply)
        except StoreFullError:
            forgotten = self.file.change_when_full(apply)
        self.file.purge()
        self.drop_seen()
        if burial is not None and burial.noted_at is not None:
            self._forgotten.add(self._hash(user_id), burial.noted_at)
        return forgotten

    def confirm(self, user_ids: Sequence[bytes]) -> None:
        """See `RecordEngine`; what is read was committed."""

    def forgotten_at(self, user_ids: Sequence[bytes]) -> list[int]:
        """See `RecordEngine`."""
        noted = self._forgotten.read()
        return [noted.get(self._hash(user_id), 0) for user_id in user_ids] if noted else [0] * len(user_ids)

    def heads_after(self, user_id: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """See `RecordEngine`."""
        query = "SELECT user_id, head FROM users WHERE user_id > ? ORDER BY user_id LIMIT ?"
        return self.file.read(lambda connection: connection.execute(query, (user_id, count)).fetchall())

    def noted(self, name: str) -> str | None:
        """See `RecordEngine`."""
        query = "SELECT value FROM facts WHERE name = ?"
        found = self.file.look(lambda connection: connection.execute(query, (f"note {name}",)).fetchone())
        return found[0] if found else None

    def note(self, notes: Mapping[str, str]) -> None:
        """See `RecordEngine`."""
        rows = [(f"note {name}", value) for name, value in notes.items()]
        self.file.change(lambda connection: connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows))

    def stat(self) -> StoreStat:
        """See `RecordEngine`."""
        users = self.file.read(lambda connection: connection.execute("SELECT count(*) FROM users").fetchone()[0])
        snapshots, snapshot_bytes = self._snapshots.stat()
        return StoreStat(
            users=users,
            used_bytes=self.file.used_bytes(),
            file_bytes=self.file.path.stat().st_size,
            limit_bytes=self.file.max_bytes,
            snapshots=snapshots,
            snapshot_bytes=snapshot_bytes,
        )

    def compact(self) -> None:
        """See `RecordEngine`.

        Raises:
            StoreUnavailableError: the disk has no room for the copy; the store is unchanged.
        """
        try:
            self._forgotten.prune()
            self.file.vacuum()
        except StateStoreError as error:
            raise StoreUnavailableError(
                f"cannot compact the state store {self.file.path.parent} ({error.__cause__}); it is unchanged; "
                f"it needs {self.file.used_bytes()} bytes of free disk"
            ) from error

    def close(self) -> None:
        """See `RecordEngine`."""
        self._snapshots.close()
        self.file.close()

    def _stored(self, connection: sqlite3.Connection, user_id: bytes) -> tuple[int | None, UserRecords]:
        found = connection.execute("SELECT id, head FROM users WHERE user_id = ?", (user_id,)).fetchone()
        if found:
            return found[0], UserRecords(head=found[1])
        buried = connection.execute("SELECT record FROM tombstones WHERE hash = ?", (self._hash(user_id),)).fetchone()
        return None, UserRecords(tombstone=buried[0] if buried else None)

    def _store(self, connection: sqlite3.Connection, user_id: bytes, row: int | None, change: UserChange) -> None:
        if row is None:
            self.file.check_room_for_new_user(connection)
            insert = "INSERT INTO users (user_id, head) VALUES (?, ?)"
            row = connection.execute(insert, (user_id, change.head)).lastrowid
            connection.execute("DELETE FROM tombstones WHERE hash = ?", (self._hash(user_id),))
        else:
            if change.fresh:
                self._drop(connection, row)
            connection.execute("UPDATE users SET head = ? WHERE id = ?", (change.head, row))
        _store_chunks(connection, row, change)

    def _drop(self, connection: sqlite3.Connection, row: int) -> None:
        """Delete a user's chunks and snapshots."""
        freed = connection.execute("SELECT model, slot FROM snapshots WHERE user = ?", (row,)).fetchall()
        connection.execute("DELETE FROM chunks WHERE user = ?", (row,))
        connection.execute("DELETE FROM snapshots WHERE user = ?", (row,))
        connection.executemany("INSERT OR IGNORE INTO free_slots VALUES (?, ?)", freed)
        self._snapshots.erase(connection, freed)

    def _hash(self, user_id: bytes) -> bytes:
        """Stands for a user who was forgotten; without the store's salt it says nothing."""
        return hashed(self._salt, user_id)


def _with_chunks(
    connection: sqlite3.Connection, row: int | None, records: UserRecords, position: int, wanted: ChunksWanted
) -> UserRecords:
    numbers = range(0) if records.head is None else wanted(position, records.head)
    if not numbers:
        return records
    query = "SELECT number, record FROM chunks WHERE user = ? AND number >= ? AND number < ?"
    chunks = dict(connection.execute(query, (row, numbers.start, numbers.stop)).fetchall())
    return UserRecords(head=records.head, chunks=chunks)


def _replaced(connection: sqlite3.Connection, row: int | None, before: UserRecords, change: UserChange) -> bool:
    """Store a change of a user's head if it is still the one that was seen: most appends, by one statement."""
    if row is None or change.fresh:
        return False
    update = "UPDATE users SET head = ? WHERE id = ? AND head = ?"
    if not connection.execute(update, (change.head, row, before.head)).rowcount:
        return False
    _store_chunks(connection, row, change)
    return True


def _store_chunks(connection: sqlite3.Connection, row: int | None, change: UserChange) -> None:
    if change.keep_from:
        connection.execute("DELETE FROM chunks WHERE user = ? AND number < ?", (row, change.keep_from))
    for number, record in change.closed.items():
        connection.execute("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", (row, number, record))
