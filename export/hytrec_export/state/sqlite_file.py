"""One SQLite file used by several processes: opening, transactions, limits, checkpoints.

Write-ahead log, `synchronous` NORMAL (an acknowledged write survives the death of any process, and power loss leaves a
whole file) or FULL (it survives power loss too). Deleted content is overwritten. The log is moved into the file by a
thread of its own, outside requests.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, RLock, Thread
from typing import TypeVar

from hytrec_export.errors import StateStoreError, StoreFullError, StoreUnavailableError
from hytrec_export.state.folder import DATA_FILE, StoreFolder, sync_folder
from hytrec_export.state.migrations import prepare

ResultT = TypeVar("ResultT")

PAGE_BYTES = 4096
RESERVED_PAGES = 256
"""Kept out of the limit of appends, so that a deletion finds room in a full store."""
_SHARE_FOR_KNOWN_USERS = 8
"""One of so many bytes."""
_BUSY_TIMEOUT_S = 30.0
_CHECKPOINT_EVERY_S = 1.0
_CHECKPOINT_WAIT_MS = 1_000
_CHECKPOINT_BYTES = 4 << 20
_MEMORY_CACHE_KB = 16_384
_LOCK_FILE = "write.lock"


class SqliteFile:
    """An open store file.

    Args:
        folder: already locked, shared or exclusive; closed together with the file.
        power: whether a commit survives power loss, by an fsync.
        maintained: whether the log is moved into the file every second or so, and `chores` are done.

    Raises:
        StoreUnavailableError: SQLite cannot open the file, or it is of another format.
    """

    def __init__(self, folder: StoreFolder, *, max_bytes: int, power: bool, maintained: bool = True) -> None:
        self.path = folder.path / DATA_FILE
        self._place = os.fspath(self.path)
        self.max_bytes = max_bytes
        self._folder = folder
        self._lock = RLock()
        self._checkpointing = RLock()
        self._closed = Event()
        self._purges, self._purged = int(maintained), 0  # at the start: one may have been killed after a forget
        self.chores: list[Callable[[], None]] = []
        self.at_close: list[Callable[[], None]] = []
        self._write_lock = -1
        try:
            self._write_lock = os.open(folder.path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._write_lock, fcntl.LOCK_EX)
            self._connection = self._connect(power=power)
            prepare(self._connection, self.path)
            self._checkpointer = self._connect(power=power)
            self._checkpointer.execute(
                f"PRAGMA busy_timeout = {_CHECKPOINT_WAIT_MS}"
            ).fetchall()  # writers wait with it
            sync_folder(folder.path)  # else a power cut could bring back the journal that made the file, and undo it
            fcntl.flock(self._write_lock, fcntl.LOCK_UN)
            self._inode = self.path.stat().st_ino
        except (sqlite3.Error, OSError) as error:
            self._abandon()
            raise StoreUnavailableError(
                f"cannot open the state store {folder.path} ({error}); if its files are damaged, restore a backup, "
                "or move the folder away to start with an empty one"
            ) from error
        except BaseException:
            self._abandon()
            raise
        self._limit(max_bytes // PAGE_BYTES)
        self._maintenance = Thread(target=self._maintain, name="state-checkpoints", daemon=True)
        if maintained:
            self._maintenance.start()

    def read(self, visit: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Run `visit` on one consistent view.

        Raises:
            StoreUnavailableError: SQLite fails, or the file is not in its place any more.
        """
        with self._lock, self._known_errors(write=False):
            self._check_place()
            self._connection.execute("BEGIN")
            try:
                return visit(self._connection)
            finally:
                self._connection.execute("ROLLBACK")

    def look(self, visit: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """`read` without one view over several statements; a little faster."""
        with self._lock, self._known_errors(write=False):
            self._check_place()
            return visit(self._connection)

    def change(self, apply: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Run `apply` in the write transaction, commit, and return its result.

        Raises:
            StoreFullError: the limit or the disk is reached; nothing is changed.
            StoreUnavailableError: SQLite fails, or the file is not in its place any more; nothing is changed.
        """
        with self._lock, self._known_errors(write=True):
            self._check_place()
            fcntl.flock(self._write_lock, fcntl.LOCK_EX)  # wakes at once, where SQLite's own waiting polls
            try:
                return self._transaction(apply)
            finally:
                fcntl.flock(self._write_lock, fcntl.LOCK_UN)

    def change_when_full(self, apply: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """`change` with the pages that are kept for deletions."""
        with self._lock:
            self._limit(self.max_bytes // PAGE_BYTES + RESERVED_PAGES)
            try:
                return self.change(apply)
            finally:
                self._limit(self.max_bytes // PAGE_BYTES)

    def purge(self) -> None:
        """Have the log's old content removed from the disk soon: it may hold what was deleted."""
        self._purges += 1

    def used_bytes(self) -> int:
        """Bytes of the pages in use."""
        return self.read(_used_pages) * PAGE_BYTES

    def check_room_for_new_user(self, connection: sqlite3.Connection) -> None:
        """Raises: StoreFullError: what is left is for the users there are."""
        if _used_pages(connection) * PAGE_BYTES > self.max_bytes - self.max_bytes // _SHARE_FOR_KNOWN_USERS:
            raise StoreFullError(
                f"the state store {self._folder.path} is nearly full and takes no new users; "
                "delete users, or raise its limit"
            )

    def checkpoint(self, *, truncate: bool) -> bool:
        """Move the log into the file; whether all of it was, and, with `truncate`, nothing is left of it."""
        with self._checkpointing, self._known_errors(write=False):
            kind = "TRUNCATE" if truncate else "PASSIVE"
            busy, frames, moved = self._checkpointer.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
        return not busy and frames == moved

    def vacuum(self) -> None:
        """Rewrite the file without free pages; it must be open here alone.

        Raises:
            StateStoreError: SQLite fails; the file is unchanged.
        """
        self.checkpoint(truncate=True)
        with self._lock, self._known_errors(write=True):
            self._connection.execute("VACUUM")
        self.checkpoint(truncate=True)

    def close(self) -> None:
        """Close; the last process out leaves the file alone, without a log."""
        self._closed.set()
        if self._maintenance.is_alive():
            self._maintenance.join()
        for ending in self.at_close:
            ending()
        with self._lock:
            if self._purges > self._purged:
                with suppress(StateStoreError):
                    self.checkpoint(truncate=True)
            self._abandon()

    def _connect(self, *, power: bool) -> sqlite3.Connection:
        with suppress(FileExistsError):  # closing a file that SQLite has open would drop its locks
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            for pragma in (
                f"page_size = {PAGE_BYTES}",
                "journal_mode = WAL",
                f"synchronous = {'FULL' if power else 'NORMAL'}",
                "wal_autocheckpoint = 0",
                "secure_delete = ON",
                "foreign_keys = OFF",
                f"cache_size = -{_MEMORY_CACHE_KB}",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _transaction(self, apply: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = apply(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return result

    def _limit(self, pages: int) -> None:
        with self._lock, self._known_errors(write=False):
            self._connection.execute(f"PRAGMA max_page_count = {max(1, pages)}").fetchall()

    def _check_place(self) -> None:
        """A folder that was deleted, replaced or unmounted would take writes that nobody will ever read."""
        try:
            inode = os.stat(self._place).st_ino  # noqa: PTH116  with every read: a Path takes several times as long
        except OSError:
            inode = -1
        if inode != self._inode:
            raise StoreUnavailableError(
                f"the state store {self._folder.path} was deleted, replaced or unmounted while it was served; "
                "put it back and restart the server"
            )

    @contextmanager
    def _known_errors(self, *, write: bool) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = f"the state store {self._folder.path}"
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if write and code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
                raise StoreFullError(f"{name} is full ({error}); delete users, raise its limit or free disk") from error
            raise StoreUnavailableError(
                f"{name} failed ({error}); check the disk, restore a backup if the file is damaged, then restart"
            ) from error

    def _maintain(self) -> None:
        log = self.path.with_name(self.path.name + "-wal")
        while not self._closed.wait(_CHECKPOINT_EVERY_S):
            for chore in self.chores:
                chore()
            with suppress(StateStoreError, OSError):
                if self._purges > self._purged:
                    wanted = self._purges
                    if self.checkpoint(truncate=True):
                        self._purged = wanted
                elif log.stat().st_size >= _CHECKPOINT_BYTES:
                    self.checkpoint(truncate=False)

    def _abandon(self) -> None:
        for name in ("_checkpointer", "_connection"):
            connection = getattr(self, name, None)
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()
        if self._write_lock >= 0:
            os.close(self._write_lock)
            self._write_lock = -1
        self._folder.close()


def _used_pages(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(count) - int(free)
