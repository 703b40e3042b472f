"""Snapshots in files of fixed slots, one file for each model; which slot is whose stands in the store's SQLite file.

They need no durability, so they stay out of its log. A slot is written and erased inside its write transaction: a user
who is forgotten leaves nothing behind. The two models opened last keep their files; each may take half of the limit.
"""

from __future__ import annotations

import os
import random
import sqlite3
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state.engine import StillOf
from hytrec_export.state.snapshot import Buffer
from hytrec_export.state.sqlite_file import SqliteFile

KEPT_MODELS = 2
_SUFFIX, _USED_SUFFIX = ".snapshots", ".used"
_USED = struct.Struct("<I")
_SAMPLED_SLOTS = 32
"""Of so many slots drawn at random the least recently used one goes: near enough to the least of all."""
_FIND_USER = (
    "SELECT users.id, users.head, snapshots.slot FROM users LEFT JOIN snapshots "
    "ON snapshots.user = users.id AND snapshots.model = ? WHERE users.user_id = ?"
)
_FIND = "SELECT slot FROM snapshots WHERE model = ? AND user = (SELECT id FROM users WHERE user_id = ?)"


class SnapshotFiles:
    """The snapshot files of a store's folder."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._folder = file.path.parent
        self._opened: list[SqliteSnapshots] = []

    def open_model(
        self,
        name: str,
        *,
        slot_bytes: int,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
        kind: type[SqliteSnapshots] | None = None,
    ) -> SqliteSnapshots:
        """The snapshots of a model, made when missing; those of all but the two models opened last are deleted.

        Args:
            name: of the model, and of its files.
            max_bytes: of all models' snapshots.
            kind: of the object.

        Raises:
            StoreUnavailableError: a file cannot be made.
        """

        def enroll(connection: sqlite3.Connection) -> int:
            found = connection.execute("SELECT id, slot_bytes FROM models WHERE name = ?", (name,)).fetchone()
            if found and found[1] != slot_bytes:
                self._remove(connection, found[0], name)
                found = None
            if found:
                connection.execute("UPDATE models SET opened_at = ? WHERE id = ?", (time.time_ns(), found[0]))
            else:
                self._unlink(name)
                entry = (name, slot_bytes, time.time_ns())
                connection.execute("INSERT INTO models (name, slot_bytes, opened_at) VALUES (?, ?, ?)", entry)
            newest_first = connection.execute("SELECT id, name FROM models ORDER BY opened_at DESC").fetchall()
            for old, old_name in newest_first[KEPT_MODELS:]:
                self._remove(connection, old, old_name)
            return int(connection.execute("SELECT id FROM models WHERE name = ?", (name,)).fetchone()[0])

        model = self._file.change(enroll)
        slots = max_bytes // KEPT_MODELS // slot_bytes
        paths = (self._folder / (name + _SUFFIX), self._folder / (name + _USED_SUFFIX))
        opened = (kind or SqliteSnapshots)(
            self._file, model, paths, slot_bytes=slot_bytes, max_slots=slots, clock=clock
        )
        self._opened.append(opened)
        return opened

    def erase(self, connection: sqlite3.Connection, slots: Sequence[tuple[int, int]]) -> None:
        """Overwrite slots by zeros, inside a write transaction.

        Args:
            slots: model and number of each.
        """
        for model, slot in slots:
            found = connection.execute("SELECT name, slot_bytes FROM models WHERE id = ?", (model,)).fetchone()
            if not found:
                continue
            try:
                descriptor = os.open(self._folder / (found[0] + _SUFFIX), os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                os.pwrite(descriptor, bytes(found[1]), slot * found[1])
            finally:
                os.close(descriptor)

    def stat(self) -> tuple[int, int]:
        """Snapshots of all models, and bytes that their files take on the disk."""
        count = self._file.read(lambda connection: connection.execute("SELECT count(*) FROM snapshots").fetchone()[0])
        sizes = [path.stat().st_blocks * 512 for path in self._folder.glob("*" + _SUFFIX)]
        return int(count), sum(sizes)

    def close(self) -> None:
        """Close the files."""
        for opened in self._opened:
            opened.close()

    def _remove(self, connection: sqlite3.Connection, model: int, name: str) -> None:
        for table in ("snapshots", "free_slots"):
            connection.execute(f"DELETE FROM {table} WHERE model = ?", (model,))  # noqa: S608 - of two names
        connection.execute("DELETE FROM models WHERE id = ?", (model,))
        self._unlink(name)

    def _unlink(self, name: str) -> None:
        for suffix in (_SUFFIX, _USED_SUFFIX):
            path = self._folder / (name + suffix)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreUnavailableError(f"cannot delete {path} ({error.strerror}); delete it by hand") from error


class SqliteSnapshots:
    """See `SnapshotEngine`: the snapshots of one model.

    Args:
        model: its row.
        paths: of the slots, and of the times when they were last used.
        max_slots: the least recently used snapshot makes room beyond it.
    """

    def __init__(
        self,
        file: SqliteFile,
        model: int,
        paths: tuple[Path, Path],
        *,
        slot_bytes: int,
        max_slots: int,
        clock: Callable[[], float],
    ) -> None:
        self._file = file
        self._model = model
        self._slot_bytes = slot_bytes
        self._max_slots = max_slots
        self._clock = clock
        self._descriptors: list[int] = []
        try:
            for path in paths:
                self._descriptors.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            self.close()
            raise StoreUnavailableError(
                f"cannot open {paths[len(self._descriptors)]} ({error.strerror}); check the folder's permissions"
            ) from error

    def read_headers(self, user_ids: Sequence[bytes], size: int) -> list[Buffer | None]:
        """See `SnapshotEngine`."""
        return [None if slot is None else self._pread(size, slot) for slot in self._slots(user_ids)]

    def read_many(self, user_ids: Sequence[bytes]) -> list[Buffer | None]:
        """See `SnapshotEngine`."""
        slots = self._slots(user_ids)
        for slot in slots:
            if slot is not None:
                self._touch(slot)
        return [None if slot is None else self._pread(self._slot_bytes, slot) for slot in slots]

    def write_many(self, snapshots: Sequence[tuple[bytes, bytes]], still_of: StillOf) -> None:
        """See `SnapshotEngine`.

        Raises:
            StoreFullError: the disk is full.
            StoreUnavailableError: SQLite or the disk fails.
        """
        if not self._max_slots:
            return

        def apply(connection: sqlite3.Connection) -> None:
            for position, (user_id, raw) in enumerate(snapshots):
                slot = self._slot_for(connection, user_id, partial(still_of, position))
                if slot is not None:
                    os.pwrite(self._descriptors[0], raw, slot * self._slot_bytes)
                    self._touch(slot)

        try:
            self._file.change(apply)
        except OSError as error:
            raise StoreUnavailableError(f"cannot write a snapshot ({error.strerror}); check the disk") from error

    def capacity(self) -> int:
        """See `SnapshotEngine`."""
        return self._max_slots

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _slots(self, user_ids: Sequence[bytes]) -> list[int | None]:
        def visit(connection: sqlite3.Connection) -> list[int | None]:
            rows = [connection.execute(_FIND, (self._model, user_id)).fetchone() for user_id in user_ids]
            return [row[0] if row else None for row in rows]

        return self._file.look(visit)

    def _slot_for(
        self, connection: sqlite3.Connection, user_id: bytes, still_of: Callable[[bytes], bool]
    ) -> int | None:
        """The slot of a user, taken if there is none yet; None for a user or a model that is gone."""
        found = connection.execute(_FIND_USER, (self._model, user_id)).fetchone()
        if not found or not still_of(found[1]):
            return None
        if found[2] is not None:
            return int(found[2])
        if not connection.execute("SELECT 1 FROM models WHERE id = ?", (self._model,)).fetchone():
            return None
        slot = self._free_slot(connection)
        connection.execute("INSERT INTO snapshots VALUES (?, ?, ?)", (found[0], self._model, slot))
        return slot

    def _free_slot(self, connection: sqlite3.Connection) -> int:
        free = connection.execute("SELECT slot FROM free_slots WHERE model = ? LIMIT 1", (self._model,)).fetchone()
        if free:
            connection.execute("DELETE FROM free_slots WHERE model = ? AND slot = ?", (self._model, free[0]))
            if free[0] < self._max_slots:
                return int(free[0])
        (last,) = connection.execute("SELECT max(slot) FROM snapshots WHERE model = ?", (self._model,)).fetchone()
        slot = 0 if last is None else last + 1
        if slot < self._max_slots:
            return int(slot)
        sampled = random.sample(range(self._max_slots), min(_SAMPLED_SLOTS, self._max_slots))
        victim = min(sampled, key=self._last_used)
        self._evict(connection, victim)
        return victim

    def _evict(self, connection: sqlite3.Connection, slot: int) -> None:
        connection.execute("DELETE FROM snapshots WHERE model = ? AND slot = ?", (self._model, slot))

    def _pread(self, size: int, slot: int) -> bytearray:
        raw = bytearray(size)
        found = os.preadv(self._descriptors[0], [raw], slot * self._slot_bytes)
        return raw if found == size else raw[:found]

    def _touch(self, slot: int) -> None:
        now = _USED.pack(int(self._clock()) & 0xFFFFFFFF)
        os.pwrite(self._descriptors[1], now, slot * _USED.size)

    def _last_used(self, slot: int) -> int:
        raw = os.pread(self._descriptors[1], _USED.size, slot * _USED.size)
        return int(_USED.unpack(raw)[0]) if len(raw) == _USED.size else 0
