"""Whatever a power cut leaves, the store opens, and no count, event or state is wrong.

Every write and sync of the SQLite file and its log is recorded at SQLite's VFS, and any moment can be brought back:
what was not synced then may be on the disk or not, in any order, and torn at 512 bytes.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest

from hytrec.contract import StateStatus
from hytrec_export.state import sqlite_file
from hytrec_export.state.options import Durability
from hytrec_export.state.store import Outcome

SECTOR_BYTES = 512
CUTS = 250
LONG_CUTS = 1_000
USERS = 3


@dataclass(frozen=True)
class Operation:
    """A write, a truncation (also a deletion) or, with neither, a sync of a file."""

    file: str
    offset: int = 0
    data: bytes | None = None
    size: int | None = None
    deleted: bool = False


@dataclass
class Disk:
    """What was done to the files of one folder, in order."""

    operations: list[Operation] = field(default_factory=list)

    def sync_names(self) -> None:
        """Files that were deleted stay so."""
        deleted = {operation.file for operation in self.operations if operation.deleted}
        self.operations += [Operation(name) for name in sorted(deleted)]

    def after_cut(self, moment: int, rng: random.Random) -> dict[str, bytes]:
        """Files as a power cut after so many operations may leave them."""
        done = self.operations[:moment]
        synced: dict[str, int] = {}
        for place, operation in enumerate(done):
            if operation.data is None and operation.size is None:
                synced[operation.file] = place
        files: dict[str, bytearray] = {}
        pending: dict[str, list[Operation]] = {}
        for place, operation in enumerate(done):
            if place < synced.get(operation.file, -1):
                _apply(files.setdefault(operation.file, bytearray()), operation)
            else:
                pending.setdefault(operation.file, []).append(operation)
        for name, operations in pending.items():
            kept = [part for operation in operations for part in _sectors(operation) if rng.random() < 0.5]
            rng.shuffle(kept)
            for part in kept:
                _apply(files.setdefault(name, bytearray()), part)
        return {name: bytes(content) for name, content in files.items()}


def _sectors(operation: Operation) -> Iterator[Operation]:
    """A write sector by sector; anything else whole."""
    if operation.data is None:
        yield operation
        return
    start = 0
    while start < len(operation.data):
        stop = start + SECTOR_BYTES - (operation.offset + start) % SECTOR_BYTES
        yield Operation(operation.file, operation.offset + start, operation.data[start:stop])
        start = stop


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.size is not None:
        del content[operation.size :]
    elif operation.data is not None:
        content.extend(bytes(max(0, operation.offset - len(content))))
        content[operation.offset : operation.offset + len(operation.data)] = operation.data


class RecordingVFS(apsw.VFS):
    """The system's files, every change to a database or its log recorded."""

    def __init__(self, name: str, disk: Disk) -> None:
        self._disk = disk
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - apsw's name
        return RecordingFile(name, flags, self._disk)

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802
        self._disk.operations.append(Operation(Path(name).name, size=0, deleted=True))
        super().xDelete(name, syncdir)


class RecordingFile(apsw.VFSFile):
    """See `RecordingVFS`."""

    def __init__(self, name: Any, flags: list[int], disk: Disk) -> None:
        self._disk = disk
        self._name = Path(name if isinstance(name, str) else name.filename()).name if name else ""
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.operations.append(Operation(self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.operations.append(Operation(self._name, size=size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.operations.append(Operation(self._name))
        super().xSync(flags)


class RecordedConnection:
    """As much of `sqlite3.Connection` as the store needs; its VFS has no shared memory, so it has the file alone."""

    def __init__(self, path: Path, vfs: str) -> None:
        self._connection = apsw.Connection(str(path), vfs=vfs)
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()

    def execute(self, sql: str, values: Any = ()) -> Any:
        return _Cursor(self._connection.execute(sql, values), self._connection)

    def executemany(self, sql: str, values: Any) -> None:
        self._connection.executemany(sql, list(values))

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def close(self) -> None:
        """Left open: the power goes first."""

    def release(self) -> None:
        """Close the files, which their VFS must outlive."""
        self._connection.close()


class _Cursor:
    def __init__(self, cursor: Any, connection: apsw.Connection) -> None:
        self._rows = list(cursor)
        self.lastrowid = connection.last_insert_rowid()
        self.rowcount = connection.changes()

    def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[Any]:
        return self._rows


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[Disk]:
    """Have stores that are opened meanwhile write to a disk that is recorded."""
    disk = Disk()
    vfs = RecordingVFS(name, disk)
    connections: dict[Path, RecordedConnection] = {}

    def connect(path: Path, **_: Any) -> RecordedConnection:
        """One for both of the store's connections."""
        if path not in connections:
            connections[path] = RecordedConnection(path, name)
        return connections[path]

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        patch.setattr(sqlite_file, "_CHECKPOINT_EVERY_S", 10**6)
        patch.setattr(sqlite_file, "sync_folder", lambda _: disk.sync_names())
        yield disk
    recorded = len(disk.operations)
    for connection in connections.values():
        connection.release()
    del disk.operations[recorded:]
    vfs.unregister()


@pytest.mark.parametrize("cuts", [CUTS, pytest.param(LONG_CUTS, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("durability", list(Durability))
def test_power_cuts(
    tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch, durability: Durability, cuts: int
) -> None:
    rng = random.Random(7 + cuts)
    written = tmp_path / "written"
    acknowledged: list[tuple[int, bytes, int]] = []
    with (
        recording(monkeypatch, f"recording-{durability}") as disk,
        kit.open(written, durability=durability) as store,
    ):
        begun = len(disk.operations)
        for number in range(120):
            user_id = b"user-%d" % rng.randrange(USERS)
            seen = kit.user(store, user_id)
            (result,) = store.write_many([kit.write(user_id, rng.choice([1, 1, 2, 150]), seen)])
            assert result.outcome is Outcome.WRITTEN
            acknowledged.append((len(disk.operations), user_id, result.event_count))
            if number % 25 == 24:
                store.histories.engine.file.checkpoint(truncate=number % 50 == 49)
        settings = (written / "store.json").read_bytes()
    assert len(disk.operations) - begun > 200
    lost = 0
    for cut in range(cuts):
        moment = rng.randrange(begun, len(disk.operations) + 1)
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / "store.json").write_bytes(settings)
        for name, content in disk.after_cut(moment, rng).items():
            if not name.endswith("-shm"):
                (folder / name).write_bytes(content)
        with kit.open(folder, durability=durability) as store:
            for user_id in (b"user-%d" % number for number in range(USERS)):
                counts = [count for at, user, count in acknowledged if user == user_id and at <= moment]
                user = kit.user(store, user_id)
                assert user.status in {StateStatus.NEW, StateStatus.FOUND, StateStatus.REBUILT}
                assert user.event_count in {0, *(count for _, name, count in acknowledged if name == user_id)}
                lost += user.event_count < max(counts, default=0)
                history = store.history(user_id)
                times = [] if history is None else (history.events.times - 10**9).tolist()
                assert times == [*range(user.event_count)]
                assert history is None or not history.damaged
            kit.fed(store, b"user-0", 1)
        shutil.rmtree(folder)
    assert lost == 0 if durability is Durability.POWER else 0 < lost < cuts * USERS
