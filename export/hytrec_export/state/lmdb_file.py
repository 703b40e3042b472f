"""One LMDB environment used by several processes: opening, transactions, room, deletion, compaction.

The limit is enforced twice: on live pages, for new users only, and by LMDB's map size. The difference is what
copy-on-write needs, so that a full store goes on updating the users it has.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from threading import RLock
from typing import TypeVar

import lmdb

from hytrec_export.errors import StateStoreError, StoreFullError, StoreUnavailableError
from hytrec_export.state.folder import COMPACTED_FOLDER, DATA_FILE, StoreFolder, sync_folder
from hytrec_export.state.lmdb_values import DATABASES, Txn, Values
from hytrec_export.state.store import StoreStat

ResultT = TypeVar("ResultT")

_DELETE_RESERVE = 256 << 10
"""Kept out of the map of writes, so that a deletion finds room in a full store."""
_MAX_SPARE_BYTES = 64 << 20
_SPARE_RECORDS = 4
_NO_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""LMDB reports a write cut short by a full disk as EIO."""


class LmdbFile:
    """An open LMDB file; `values` reads and changes it inside the transactions given here.

    Args:
        folder: already locked, shared or exclusive; closed together with the file.
        flush: fsync at every commit; without, a commit survives the death of any process but not power loss.

    Raises:
        StoreUnavailableError: LMDB cannot open the file.
    """

    def __init__(self, folder: StoreFolder, *, max_bytes: int, flush: bool) -> None:
        self.max_bytes = max_bytes
        self._folder = folder
        self._lock = RLock()
        self._map_bytes = max_bytes - _DELETE_RESERVE
        try:
            self._env = lmdb.open(
                str(folder.path), map_size=self._map_bytes, sync=flush, mode=0o600, max_dbs=DATABASES, max_spare_txns=1
            )
            self.values = Values(self._env)
        except lmdb.Error as error:
            raise StoreUnavailableError(
                f"cannot open the state store {folder.path} ({error}); "
                "if its files are damaged, move the folder away to start with an empty one"
            ) from error
        if flush:
            sync_folder(folder.path)
        self.clear_dead_readers()
        self._leave_room()

    def read(self, visit: Callable[[Txn], ResultT]) -> ResultT:
        """Run `visit` in a read transaction. Views into the file do not outlive it.

        Raises:
            StoreUnavailableError: LMDB fails.
        """
        return self._run(visit, write=False)

    def change(self, apply: Callable[[Txn], ResultT]) -> ResultT:
        """Run `apply` in the write transaction, commit, and return its result.

        Raises:
            StoreFullError: no room in the map or on the disk; nothing is changed.
            StoreUnavailableError: LMDB fails; nothing is changed.
        """
        return self._run(apply, write=True)

    def delete(self, keys: list[bytes]) -> int:
        """Delete keys, in a full store too; how many there were. Survives power loss.

        Raises:
            StoreFullError: the store is full and a reader still holds every freed page.
        """

        def remove(txn: Txn) -> int:
            return sum(self.values.delete(txn, key) for key in keys)

        with self._lock:
            try:
                removed = self.change(remove)
            except StoreFullError:
                self.clear_dead_readers()
                self._env.set_mapsize(self._map_bytes + _DELETE_RESERVE)
                try:
                    removed = self.change(remove)
                finally:
                    self._env.set_mapsize(self._map_bytes)
            self._env.sync(True)
        return removed

    def has_room(self, txn: Txn, size: int) -> bool:
        """Whether a new value of `size` bytes keeps the live pages inside the limit."""
        return self.values.live_bytes(txn) + self.values.paged(size) <= self.max_bytes - self.reserved_bytes(size)

    def reserved_bytes(self, size: int) -> int:
        """What is kept from new values of `size` bytes: pages to delete with, and to copy on write."""
        return _DELETE_RESERVE + self._spare_bytes(size)

    def heads_after(self, after: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """The next `count` keys after a key, each with its header, in a short transaction.

        A long one would keep every page that is freed meanwhile from being used again.
        """
        return self.read(lambda txn: self.values.heads_after(txn, after, count))

    def stat(self) -> StoreStat:
        """How full the file is."""
        users, used = self.read(lambda txn: (self.values.count(txn), self.values.live_bytes(txn)))
        file_bytes = (self._folder.path / DATA_FILE).stat().st_size
        return StoreStat(users=users, used_bytes=used, file_bytes=file_bytes, limit_bytes=self.max_bytes)

    def clear_dead_readers(self) -> None:
        """Free the reader slots of killed processes; a killed reader pins every page freed after it began."""
        self._env.reader_check()

    def compact(self) -> None:
        """Replace the file by one of the live pages alone; the folder must be held exclusively, then close this.

        Raises:
            StoreUnavailableError: LMDB fails, or the disk is full.
        """
        target = self._folder.path / COMPACTED_FOLDER
        try:
            target.mkdir(mode=0o700)
            self._env.copy(str(target), compact=True)
            with (target / DATA_FILE).open("rb") as file:
                os.fsync(file.fileno())
            (target / DATA_FILE).replace(self._folder.path / DATA_FILE)
            sync_folder(self._folder.path)
            target.rmdir()
        except (lmdb.Error, OSError) as error:
            shutil.rmtree(target, ignore_errors=True)
            raise StoreUnavailableError(
                f"cannot compact the state store {self._folder.path} ({error}); it is unchanged; "
                f"it needs {self.stat().used_bytes} bytes of free disk"
            ) from error

    def close(self) -> None:
        """Flush and close; the last one out remembers that everything is on disk."""
        with self._lock:
            self._env.sync(True)
            self._env.close()
            if self._folder.try_exclusive():
                self._folder.mark_synced()
            self._folder.close()

    def _run(self, work: Callable[[Txn], ResultT], *, write: bool) -> ResultT:
        with self._lock:
            try:
                return self._transaction(work, write=write)
            except lmdb.MapResizedError:
                self._env.set_mapsize(self._map_bytes)  # never below what the file uses
            except lmdb.ReadersFullError:
                self.clear_dead_readers()
            except lmdb.Error as error:
                raise self._known(error, write=write) from error
            try:
                return self._transaction(work, write=write)
            except lmdb.Error as error:
                raise self._known(error, write=write) from error

    def _transaction(self, work: Callable[[Txn], ResultT], *, write: bool) -> ResultT:
        with self._env.begin(write=write, buffers=True) as txn:
            return work(txn)

    def _known(self, error: lmdb.Error, *, write: bool) -> StateStoreError:
        name = f"the state store {self._folder.path}"
        no_disk = isinstance(error, lmdb.DiskError) or getattr(error, "code", 0) in _NO_DISK
        if write and (no_disk or isinstance(error, lmdb.MapFullError | lmdb.TxnFullError)):
            return StoreFullError(f"{name} is full ({error}); delete users, raise its limit or free disk")
        return StoreUnavailableError(f"{name} failed ({error}); check the disk, then restart the server")

    def _spare_bytes(self, size: int) -> int:
        """A freed page is free only two commits later: room for a few batches, or at least single writes."""
        return max(min(self.max_bytes // 8, _MAX_SPARE_BYTES), _SPARE_RECORDS * self.values.paged(size))

    def _leave_room(self) -> None:
        """Let a store that is already over its limit (it was lowered) go on updating the users it has."""
        stat = self.stat()
        needed = stat.used_bytes + self._spare_bytes(stat.used_bytes // max(stat.users, 1))
        if needed > self._map_bytes:
            self._map_bytes = needed
            self._env.set_mapsize(needed)
