"""One LMDB environment used by several processes: opening, transactions, room, deletion.

Values are opaque here. The limit is enforced twice: on live pages, for new users only, and by LMDB's map size. The
difference is what copy-on-write needs, so that a full store goes on updating the users it has.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable
from threading import RLock
from typing import TypeAlias, TypeVar

import lmdb

from hytrec_export.errors import StateStoreError, StoreFullError, StoreUnavailableError
from hytrec_export.state.folder import COMPACTED_FOLDER, DATA_FILE, StoreFolder, sync_folder
from hytrec_export.state.store import StoreStat

Txn: TypeAlias = "lmdb.Transaction[memoryview]"
ResultT = TypeVar("ResultT")

_MAX_SPARE_BYTES = 64 << 20
_DELETE_RESERVE = 256 << 10
"""Kept out of the map of writes, so that a deletion finds room in a full store."""
_OVERFLOW_HEADER = 16
_NO_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""LMDB reports a write cut short by a full disk as EIO."""


class LmdbFile:
    """An open LMDB file.

    Args:
        folder: already locked, shared or exclusive; closed together with the file.
        flush: fsync at every commit; without, a commit survives the death of any process but not power loss.

    Raises:
        StoreUnavailableError: LMDB cannot open the file.
    """

    def __init__(self, folder: StoreFolder, *, max_bytes: int, flush: bool) -> None:
        self.max_bytes = max_bytes
        self._folder = folder
        self._flush = flush
        self._lock = RLock()
        self._map_bytes = max_bytes - _DELETE_RESERVE
        try:
            self._env = lmdb.open(
                str(folder.path), map_size=self._map_bytes, sync=flush, mode=0o600, max_dbs=0, max_spare_txns=1
            )
        except lmdb.Error as error:
            raise StoreUnavailableError(
                f"cannot open the state store {folder.path} ({error}); "
                "if its files are damaged, move the folder away to start with an empty one"
            ) from error
        self._page_bytes = self._env.stat()["psize"]
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
        """Delete keys, in a full store too; how many there were. Durable whatever `flush` says.

        Raises:
            StoreFullError: the store is full and a reader still holds every freed page.
        """

        def remove(txn: Txn) -> int:
            return sum(txn.delete(key) for key in keys)

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
        pages = math.ceil((size + _OVERFLOW_HEADER) / self._page_bytes)
        return self.live_bytes(txn) + pages * self._page_bytes <= self.max_bytes - self._spare_bytes()

    def live_bytes(self, txn: Txn) -> int:
        """Bytes of the pages in use."""
        stat = txn.stat()
        return (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * self._page_bytes

    def stat(self) -> StoreStat:
        """How full the file is."""
        users, used = self.read(lambda txn: (txn.stat()["entries"], self.live_bytes(txn)))
        file_bytes = (self._folder.path / DATA_FILE).stat().st_size
        return StoreStat(users=users, used_bytes=used, file_bytes=file_bytes, limit_bytes=self.max_bytes)

    def page(self, after: bytes, count: int, head: int) -> list[tuple[bytes, bytes, int]]:
        """The next `count` entries after a key, as (key, first `head` bytes of the value, size of the value).

        Short transactions: a long one would keep every page that is freed meanwhile from being used again.
        """
        return self.read(lambda txn: entries_after(txn, after, count, head))

    def clear_dead_readers(self) -> None:
        """Free the reader slots of killed processes; a killed reader pins every page freed after it began."""
        self._env.reader_check()

    def compact(self) -> None:
        """Replace the file by one of the live pages alone; the folder must be held exclusively, then close this.

        Raises:
            StoreUnavailableError: LMDB fails.
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
                f"it needs {self.read(self.live_bytes)} bytes of free disk"
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
        full = isinstance(error, lmdb.MapFullError | lmdb.TxnFullError | lmdb.DiskError) or error.code in _NO_DISK
        if write and full:
            return StoreFullError(f"{name} is full ({error}); delete users, raise its limit or free disk")
        return StoreUnavailableError(f"{name} failed ({error}); check the disk, then restart the server")

    def _spare_bytes(self) -> int:
        """What copy-on-write may take beyond the live pages: a few batches of records."""
        return min(self.max_bytes // 8, _MAX_SPARE_BYTES)

    def _leave_room(self) -> None:
        """Let a store that is already over its limit (it was lowered) go on updating the users it has."""
        live = self.read(self.live_bytes)
        if live + self._spare_bytes() > self._map_bytes:
            self._map_bytes = live + self._spare_bytes()
            self._env.set_mapsize(self._map_bytes)


def entries_after(txn: Txn, after: bytes, count: int, head: int) -> list[tuple[bytes, bytes, int]]:
    """The next `count` entries after a key, as (key, first `head` bytes of the value, size of the value)."""
    entries: list[tuple[bytes, bytes, int]] = []
    with txn.cursor() as cursor:
        found = cursor.set_range(after + b"\0")
        while found and len(entries) < count:
            key, value = cursor.item()
            entries.append((bytes(key), bytes(value[:head]), len(value)))
            found = cursor.next()
    return entries
