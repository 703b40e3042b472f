"""The interface between what a store means (`users`) and where its bytes lie: made for stores over a network too.

Reads are batched, writes are compare-and-set, and snapshots are apart: they need no durability. An engine knows nothing
of what it holds; it compares and keeps bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from hytrec_export.state.snapshot import Buffer
from hytrec_export.state.store import StoreStat


@dataclass(kw_only=True)
class UserRecords:
    """What is stored of one user.

    Args:
        head: None where nothing is.
        chunks: closed chunks that were asked for, by number; a missing one is left out.
        tombstone: what a forget left, where there is no head.
    """

    head: bytes | None = None
    chunks: Mapping[int, bytes] = field(default_factory=dict)
    tombstone: bytes | None = None


@dataclass(kw_only=True)
class UserChange:
    """What to store of one user.

    Args:
        head: replaces the stored one.
        closed: chunks to add, by number.
        fresh: first drop all that is stored of the user: chunks, snapshots and tombstone.
        keep_from: chunks of smaller numbers go.
    """

    head: bytes
    closed: Mapping[int, bytes] = field(default_factory=dict)
    fresh: bool = False
    keep_from: int = 0


@dataclass(frozen=True, kw_only=True)
class Burial:
    """What is left of a user who is deleted.

    Args:
        tombstone: kept for a day.
        noted_at: unix seconds up to which a restored backup may hold nothing of the user; None where it may.
    """

    tombstone: bytes
    noted_at: int | None


ChunksWanted: TypeAlias = Callable[[int, bytes], range]
"""Position in the batch, head -> numbers of the chunks to read."""
Decision: TypeAlias = Callable[[UserRecords], UserChange | None]
"""What is stored now (no chunks) -> what to store instead, or None to leave it. It may be asked again."""


class RecordEngine(Protocol):
    """Heads, chunks and tombstones of users. One object per process, used by several threads."""

    def read_many(self, user_ids: Sequence[bytes], wanted: ChunksWanted) -> list[UserRecords]:
        """Users in order, each consistent in itself."""

    def change_many(self, user_ids: Sequence[bytes], decisions: Sequence[Decision]) -> None:
        """Decide and store, user by user in order; when this returns, what was decided is durable.

        Raises:
            StoreFullError: there is no room; nothing of the batch is stored but what the error names.
            StoreUnavailableError: the store fails; nothing is stored, or, over a network, some of it.
        """

    def forget(self, user_id: bytes, bury: Callable[[UserRecords], Burial | None]) -> bool:
        """Delete everything of a user, snapshots too, and leave `bury(what was stored)`.

        Nothing is done where it is None. Returns whether a head was deleted.

        Raises:
            StoreFullError: the deletion finds no room, or cannot be noted.
        """

    def confirm(self, user_ids: Sequence[bytes]) -> None:
        """Make what was read of users as durable as what is written: it is acknowledged again.

        Raises:
            StoreUnavailableError: it cannot be now.
        """

    def forgotten_at(self, user_ids: Sequence[bytes]) -> list[int]:
        """When each user was forgotten last, in unix seconds; 0 where that is not noted."""

    def heads_after(self, user_id: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """The next `count` user ids after one, each with its head, in an order that stays; b"" is before all."""

    def noted(self, name: str) -> str | None:
        """A note about the store that all its processes share; None where there is none."""

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep notes by name, in place of older ones."""

    def stat(self) -> StoreStat:
        """How full the store is."""

    def compact(self) -> None:
        """Give freed space back; nobody else has the store open."""

    def close(self) -> None:
        """Let go of the store."""


StillOf: TypeAlias = Callable[[int, bytes], bool]
"""Position of a snapshot, head of its user now -> whether it is of this user still."""


class SnapshotEngine(Protocol):
    """Snapshots of one model, one for a user. Any of them may vanish at any time."""

    def read_headers(self, user_ids: Sequence[bytes], size: int) -> list[Buffer | None]:
        """The first `size` bytes of each user's snapshot."""

    def read_many(self, user_ids: Sequence[bytes]) -> list[Buffer | None]:
        """Each user's snapshot; a buffer that can be written is the caller's own."""

    def write_many(self, snapshots: Sequence[tuple[bytes, bytes]], still_of: StillOf) -> None:
        """Store a snapshot for each user id; of a user who is not there, or another by now, nothing is stored."""

    def capacity(self) -> int | None:
        """Snapshots that there is room for; the least recently used ones go beyond it. None where nothing limits it."""
