"""Snapshots elsewhere than heads and histories: `--snapshot-store`.

They are a cache, so a place that is away costs time and fails no request, but for a forget: a user's states go too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Generic, Protocol, TypeVar

from hytrec_export.errors import SnapshotsAwayError, StateStoreError, StoreUnavailableError
from hytrec_export.state.engine import (
    Burial,
    ChunksWanted,
    Decision,
    RecordEngine,
    SnapshotEngine,
    StillOf,
    UserChange,
    UserRecords,
)
from hytrec_export.state.snapshot import Buffer
from hytrec_export.state.store import StoreStat
from hytrec_export.state.url import StoreUrl

AWAY_S = 5.0
"""How long a place that failed is left alone."""
_LOG = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")
SnapshotsT = TypeVar("SnapshotsT", bound=SnapshotEngine)


class SnapshotPlace(Protocol):
    """Where snapshots of one model lie, without heads beside them. Any of them may vanish at any time."""

    def read_headers(self, user_ids: Sequence[bytes], size: int) -> list[Buffer | None]:
        """The first `size` bytes of each user's snapshot."""

    def read_many(self, user_ids: Sequence[bytes]) -> list[Buffer | None]:
        """Each user's snapshot; a buffer that can be written is the caller's own."""

    def keep(self, snapshots: Sequence[tuple[bytes, bytes]]) -> None:
        """Store a snapshot for each user id.

        Raises:
            StateStoreError: they cannot be stored.
        """

    def drop(self, user_ids: Sequence[bytes]) -> None:
        """Delete the snapshots of users, of every model.

        Raises:
            StateStoreError: they may be there still.
        """

    def capacity(self) -> int | None:
        """Snapshots that there is room for; None where nothing limits it."""

    def stat(self) -> tuple[int, int]:
        """Snapshots, and the bytes that they take."""

    def close(self) -> None:
        """Let go of the place."""


class PlaceOfModel(Generic[SnapshotsT]):
    """What places have in common: they read the snapshots of the model that they were opened for, if for any."""

    _snapshots: SnapshotsT | None

    def read_headers(self, user_ids: Sequence[bytes], size: int) -> list[Buffer | None]:
        """See `SnapshotPlace`."""
        return self._of_model().read_headers(user_ids, size)

    def read_many(self, user_ids: Sequence[bytes]) -> list[Buffer | None]:
        """See `SnapshotPlace`."""
        return self._of_model().read_many(user_ids)

    def capacity(self) -> int | None:
        """See `SnapshotPlace`."""
        return self._of_model().capacity()

    def _of_model(self) -> SnapshotsT:
        if self._snapshots is None:
            raise TypeError("this place was opened without a model")
        return self._snapshots


class LatePlace:
    """See `SnapshotPlace`: one that is opened when it can be, and left alone for a while when it fails.

    Args:
        open_place: may raise `StoreUnavailableError`.
        clock: monotonic seconds.
    """

    def __init__(
        self, url: StoreUrl, open_place: Callable[[], SnapshotPlace], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = url
        self._open_place = open_place
        self._clock = clock
        self._place: SnapshotPlace | None = None
        self._away_until = -AWAY_S
        self._opening = Lock()

    def open(self) -> None:
        """Try to open the place; one that is away is tried again later.

        Raises:
            OptionError: it is no place for snapshots, or its URL is wrong.
            MissingPackageError: a package is missing.
        """
        try:
            self._tried(lambda _: None)
        except StateStoreError as error:
            _LOG.warning("%s; states are not kept meanwhile", error)

    def read_headers(self, user_ids: Sequence[bytes], size: int) -> list[Buffer | None]:
        """See `SnapshotPlace`."""
        return self._unless_away(lambda place: place.read_headers(user_ids, size))

    def read_many(self, user_ids: Sequence[bytes]) -> list[Buffer | None]:
        """See `SnapshotPlace`."""
        return self._unless_away(lambda place: place.read_many(user_ids))

    def keep(self, snapshots: Sequence[tuple[bytes, bytes]]) -> None:
        """See `SnapshotPlace`."""
        self._unless_away(lambda place: place.keep(snapshots))

    def drop(self, user_ids: Sequence[bytes]) -> None:
        """See `SnapshotPlace`; it is tried in any case."""
        self._tried(lambda place: place.drop(user_ids))

    def capacity(self) -> int | None:
        """See `SnapshotPlace`; None while it is away."""
        return None if self._place is None else self._place.capacity()

    def stat(self) -> tuple[int, int]:
        """See `SnapshotPlace`; nothing while it is away."""
        with suppress(StateStoreError):
            return self._unless_away(lambda place: place.stat())
        return 0, 0

    def close(self) -> None:
        """See `SnapshotPlace`."""
        if self._place is not None:
            self._place.close()
            self._place = None

    def _unless_away(self, use: Callable[[SnapshotPlace], ResultT]) -> ResultT:
        if self._clock() < self._away_until:
            raise SnapshotsAwayError(f"the snapshot store {self.url} failed a moment ago; it is tried again soon")
        return self._tried(use)

    def _tried(self, use: Callable[[SnapshotPlace], ResultT]) -> ResultT:
        try:
            with self._opening:
                if self._place is None:
                    self._place = self._open_place()
            return use(self._place)
        except StateStoreError:
            self._away_until = self._clock() + AWAY_S
            raise


class ApartSnapshots:
    """See `SnapshotEngine`: snapshots in a place, heads in an engine.

    A head is compared before a snapshot is written and again after it: the user may be forgotten in between.
    """

    def __init__(self, place: SnapshotPlace, records: RecordEngine) -> None:
        self._place = place
        self._records = records

    def read_headers(self, user_ids: Sequence[bytes], size: int) -> list[Buffer | None]:
        """See `SnapshotEngine`; none where the place is away."""
        return self._read(lambda: self._place.read_headers(user_ids, size), len(user_ids))

    def read_many(self, user_ids: Sequence[bytes]) -> list[Buffer | None]:
        """See `SnapshotEngine`; none where the place is away."""
        return self._read(lambda: self._place.read_many(user_ids), len(user_ids))

    def write_many(self, snapshots: Sequence[tuple[bytes, bytes]], still_of: StillOf) -> None:
        """See `SnapshotEngine`.

        Raises:
            StateStoreError: the place is away, or full.
        """
        places = self._still(snapshots, range(len(snapshots)), still_of)
        if not places:
            return
        self._place.keep([snapshots[place] for place in places])
        gone = sorted(set(places) - set(self._still(snapshots, places, still_of)))
        if gone:
            self._place.drop([snapshots[place][0] for place in gone])

    def capacity(self) -> int | None:
        """See `SnapshotEngine`."""
        return self._place.capacity()

    def _still(self, snapshots: Sequence[tuple[bytes, bytes]], places: Sequence[int], still_of: StillOf) -> list[int]:
        found = self._records.read_many([snapshots[place][0] for place in places], lambda *_: range(0))
        heads = [records.head for records in found]
        return [place for place, head in zip(places, heads, strict=True) if head is not None and still_of(place, head)]

    def _read(self, read: Callable[[], list[Buffer | None]], users: int) -> list[Buffer | None]:
        try:
            return read()
        except StateStoreError as error:
            _LOG.debug("%s", error)
            return [None] * users


class ApartEngine:
    """See `RecordEngine`: one whose users' snapshots lie elsewhere."""

    def __init__(self, engine: RecordEngine, place: LatePlace) -> None:
        self._engine = engine
        self._place = place

    def read_many(self, user_ids: Sequence[bytes], wanted: ChunksWanted) -> list[UserRecords]:
        """See `RecordEngine`."""
        return self._engine.read_many(user_ids, wanted)

    def change_many(self, user_ids: Sequence[bytes], decisions: Sequence[Decision]) -> None:
        """See `RecordEngine`; states of a history that is replaced are of no use, and go where they can."""
        replaced: set[bytes] = set()

        def watched(user_id: bytes, decide: Decision) -> Decision:
            def decided(records: UserRecords) -> UserChange | None:
                change = decide(records)
                if change is not None and change.fresh and records.head is not None:
                    replaced.add(user_id)
                return change

            return decided

        pairs = zip(user_ids, decisions, strict=True)
        self._engine.change_many(user_ids, [watched(user_id, decide) for user_id, decide in pairs])
        if replaced:
            with suppress(StateStoreError):
                self._place.drop(sorted(replaced))

    def forget(self, user_id: bytes, bury: Callable[[UserRecords], Burial | None]) -> bool:
        """See `RecordEngine`.

        Raises:
            StoreUnavailableError: the user's states may be there still.
        """
        forgotten = self._engine.forget(user_id, bury)
        try:
            self._place.drop([user_id])
        except StateStoreError as error:
            raise StoreUnavailableError(
                f"the user's history is deleted, but states may be left, as the snapshot store {self._place.url} "
                f"cannot be reached ({error}); forget the user again"
            ) from error
        return forgotten

    def confirm(self, user_ids: Sequence[bytes]) -> None:
        """See `RecordEngine`."""
        self._engine.confirm(user_ids)

    def forgotten_at(self, user_ids: Sequence[bytes]) -> list[int]:
        """See `RecordEngine`."""
        return self._engine.forgotten_at(user_ids)

    def heads_after(self, user_id: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """See `RecordEngine`."""
        return self._engine.heads_after(user_id, count)

    def noted(self, name: str) -> str | None:
        """See `RecordEngine`."""
        return self._engine.noted(name)

    def note(self, notes: Mapping[str, str]) -> None:
        """See `RecordEngine`."""
        self._engine.note(notes)

    def stat(self) -> StoreStat:
        """See `RecordEngine`; of snapshots those in the place."""
        snapshots, snapshot_bytes = self._place.stat()
        return replace(self._engine.stat(), snapshots=snapshots, snapshot_bytes=snapshot_bytes)

    def compact(self) -> None:
        """See `RecordEngine`; the place stays as it is."""
        self._engine.compact()

    def close(self) -> None:
        """See `RecordEngine`."""
        self._engine.close()
        self._place.close()
