"""Records in this process's memory: for unit tests, and for sessions, which store nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock

from hytrec_export.errors import StoreFullError
from hytrec_export.state.engine import Burial, ChunksWanted, Decision, StillOf, UserChange, UserRecords
from hytrec_export.state.snapshot import Buffer
from hytrec_export.state.store import StoreStat


@dataclass
class StoredRecords:
    """The records of one user, the very bytes that another engine would hold."""

    head: bytes
    chunks: dict[int, bytes] = field(default_factory=dict)

    def size(self) -> int:
        """Bytes of all records."""
        return len(self.head) + sum(map(len, self.chunks.values()))


class MemoryEngine:
    """See `RecordEngine` and `SnapshotEngine`; it is both.

    Args:
        max_bytes: limit on the bytes of heads and chunks.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.users: dict[bytes, StoredRecords] = {}
        self.snapshots: dict[bytes, bytes] = {}
        self.tombstones: dict[bytes, bytes] = {}
        self.notes: dict[str, str] = {}
        self._max_bytes = max_bytes
        self._lock = RLock()

    def read_many(self, user_ids: Sequence[bytes], wanted: ChunksWanted) -> list[UserRecords]:
        """See `RecordEngine`."""
        with self._lock:
            return [self._read(user_id, position, wanted) for position, user_id in enumerate(user_ids)]

    def change_many(self, user_ids: Sequence[bytes], decisions: Sequence[Decision]) -> None:
        """See `RecordEngine`."""
        with self._lock:
            before = {user_id: self.users.get(user_id) for user_id in user_ids}
            try:
                for user_id, decide in zip(user_ids, decisions, strict=True):
                    change = decide(self._stored(user_id))
                    if change:
                        self._apply(user_id, change)
            except BaseException:
                for user_id, records in before.items():
                    if records is None:
                        self.users.pop(user_id, None)
                    else:
                        self.users[user_id] = records
                raise

    def forget(self, user_id: bytes, bury: Callable[[UserRecords], Burial | None]) -> bool:
        """See `RecordEngine`; there are no backups that anything would be noted for."""
        with self._lock:
            burial = bury(self._stored(user_id))
            if burial is None:
                return False
            self.tombstones[user_id] = burial.tombstone
            self.snapshots.pop(user_id, None)
            return self.users.pop(user_id, None) is not None

    def confirm(self, user_ids: Sequence[bytes]) -> None:
        """See `RecordEngine`; there is nothing more durable."""

    def forgotten_at(self, user_ids: Sequence[bytes]) -> list[int]:
        """See `RecordEngine`; nothing is noted."""
        return [0] * len(user_ids)

    def heads_after(self, user_id: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """See `RecordEngine`."""
        with self._lock:
            return [(name, self.users[name].head) for name in sorted(name for name in self.users if name > user_id)][
                :count
            ]

    def noted(self, name: str) -> str | None:
        """See `RecordEngine`."""
        return self.notes.get(name)

    def note(self, notes: Mapping[str, str]) -> None:
        """See `RecordEngine`."""
        self.notes.update(notes)

    def stat(self) -> StoreStat:
        """See `RecordEngine`."""
        with self._lock:
            used = sum(records.size() for records in self.users.values())
            kept = sum(map(len, self.snapshots.values()))
        return StoreStat(
            users=len(self.users),
            used_bytes=used,
            file_bytes=used,
            limit_bytes=self._max_bytes,
            snapshots=len(self.snapshots),
            snapshot_bytes=kept,
        )

    def compact(self) -> None:
        """See `RecordEngine`."""

    def close(self) -> None:
        """See `RecordEngine`."""

    def _read(self, user_id: bytes, position: int, wanted: ChunksWanted) -> UserRecords:
        stored = self.users.get(user_id)
        if stored is None:
            return self._stored(user_id)
        numbers = wanted(position, stored.head)
        chunks = {number: stored.chunks[number] for number in numbers if number in stored.chunks}
        return UserRecords(head=stored.head, chunks=chunks)

    def _stored(self, user_id: bytes) -> UserRecords:
        stored = self.users.get(user_id)
        return UserRecords(tombstone=self.tombstones.get(user_id)) if stored is None else UserRecords(head=stored.head)

    def _apply(self, user_id: bytes, change: UserChange) -> None:
        old = self.users.get(user_id)
        chunks = {} if old is None or change.fresh else old.chunks
        kept = {number: raw for number, raw in {**chunks, **change.closed}.items() if number >= change.keep_from}
        new = StoredRecords(change.head, kept)
        if self.stat().used_bytes + new.size() - (old.size() if old else 0) > self._max_bytes:
            raise StoreFullError("the state store in memory is full; give it more bytes")
        self.users[user_id] = new
        if change.fresh:
            self.snapshots.pop(user_id, None)
            self.tombstones.pop(user_id, None)


class MemoryPlace:
    """See `SnapshotPlace`."""

    def __init__(self) -> None:
        self.snapshots: dict[bytes, bytes] = {}

    def read_headers(self, user_ids: Sequence[bytes], size: int) -> list[Buffer | None]:
        """See `SnapshotPlace`."""
        return [None if raw is None else raw[:size] for raw in self.read_many(user_ids)]

    def read_many(self, user_ids: Sequence[bytes]) -> list[Buffer | None]:
        """See `SnapshotPlace`."""
        return [self.snapshots.get(user_id) for user_id in user_ids]

    def keep(self, snapshots: Sequence[tuple[bytes, bytes]]) -> None:
        """See `SnapshotPlace`."""
        self.snapshots.update(snapshots)

    def drop(self, user_ids: Sequence[bytes]) -> None:
        """See `SnapshotPlace`."""
        for user_id in user_ids:
            self.snapshots.pop(user_id, None)

    def capacity(self) -> int | None:
        """See `SnapshotPlace`."""
        return None

    def stat(self) -> tuple[int, int]:
        """See `SnapshotPlace`."""
        return len(self.snapshots), sum(map(len, self.snapshots.values()))

    def close(self) -> None:
        """See `SnapshotPlace`."""


class MemorySnapshots:
    """See `SnapshotEngine`: snapshots in a `MemoryEngine`."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine

    def read_headers(self, user_ids: Sequence[bytes], size: int) -> list[Buffer | None]:
        """See `SnapshotEngine`."""
        return [None if raw is None else raw[:size] for raw in self.read_many(user_ids)]

    def read_many(self, user_ids: Sequence[bytes]) -> list[Buffer | None]:
        """See `SnapshotEngine`."""
        return [self._engine.snapshots.get(user_id) for user_id in user_ids]

    def write_many(self, snapshots: Sequence[tuple[bytes, bytes]], still_of: StillOf) -> None:
        """See `SnapshotEngine`."""
        for position, (user_id, raw) in enumerate(snapshots):
            stored = self._engine.users.get(user_id)
            if stored and still_of(position, stored.head):
                self._engine.snapshots[user_id] = raw

    def capacity(self) -> int | None:
        """See `SnapshotEngine`."""
        return None
