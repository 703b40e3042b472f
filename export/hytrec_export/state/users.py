"""The state store: users' histories in a record engine, snapshots of one model in a snapshot engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import xor
from typing import Any, NamedTuple

from numpy.typing import NDArray

from hytrec.contract import Sizes
from hytrec_export.errors import SnapshotsAwayError, StateStoreError
from hytrec_export.state.engine import SnapshotEngine, UserRecords
from hytrec_export.state.events import DIGEST_BYTES, KeyTypes
from hytrec_export.state.head import drop_decoded, unpack_head
from hytrec_export.state.histories import HistoryStore
from hytrec_export.state.history import History
from hytrec_export.state.reading import ReadPlan
from hytrec_export.state.recent import RecentState, RecentStates, SeenHeaders
from hytrec_export.state.snapshot import (
    HEADER_BYTES,
    Buffer,
    SnapshotHeader,
    pack_snapshot,
    unpack_header,
    unpack_state,
)
from hytrec_export.state.store import (
    NewSnapshot,
    StoredUser,
    StoreStat,
    UserAppend,
    UserRead,
    UserSummary,
    UserWrite,
    WriteResult,
)

_DECODED_LIFE_S = 30.0
_LOG = logging.getLogger(__name__)


class _Source(NamedTuple):
    """Where a user's state may come from: a header, its tensors or bytes if at hand, and events of the stored one."""

    header: SnapshotHeader | None
    state: dict[str, NDArray[Any]] | None
    kept: int | None
    raw: Buffer | None = None


class StateStore:
    """Users of one model. One object per process; several threads may use it.

    Args:
        histories: closed together with the store.
        fingerprint: of the model, 16 bytes.
        snapshot_every: events after which a state is kept again.
        recent: users whose last state this process remembers for a minute.
        far: reading a snapshot costs time on a network, so that those read are remembered too.
    """

    def __init__(
        self,
        histories: HistoryStore,
        snapshots: SnapshotEngine,
        *,
        sizes: Sizes,
        fingerprint: bytes,
        snapshot_every: int,
        recent: int = 0,
        far: bool = False,
    ) -> None:
        self.histories = histories
        self.snapshot_every = snapshot_every
        self.snapshot_limit = snapshot_every
        """Events without a snapshot from which on its absence is told; more where it is made after an append."""
        self.types: KeyTypes = histories.rules.types
        self._snapshots = snapshots
        self._recent = RecentStates(recent)
        self._headers = SeenHeaders()
        self._far = far
        self._decoded_until = 0.0
        self._sizes = sizes
        self._fingerprint = fingerprint
        self.catalog_mark: Callable[[], bytes] = bytes
        """Mark of the catalog (16 bytes) where it may change; no state is used that is blind to another one."""

    def keep_apart(self, snapshots: SnapshotEngine, *, far: bool) -> None:
        """Have snapshots elsewhere from now on.

        Args:
            far: as of the store.
        """
        self._snapshots = snapshots
        self._far = far

    def read_many(self, reads: Sequence[UserRead], *, max_gap: int | None = None) -> list[StoredUser]:
        """Users in order: the newest usable snapshot of this model, and the events since and W before it.

        Args:
            max_gap: events that the caller can encode; of a user with more of them the head alone is read.

        Raises:
            StoreUnavailableError: the store cannot be read.
        """
        users: dict[int, StoredUser] = {}
        for look in (self._recent_states, self._stored_states, self._no_states):
            left = [position for position in range(len(reads)) if position not in users]
            found = look([reads[position] for position in left]) if left else []
            tried = [position for position, source in zip(left, found, strict=True) if source]
            sources = [source for source in found if source]
            if tried:  # a state that is not of this history, damaged, or gone in the meantime misleads
                read = self._read([reads[position] for position in tried], sources, max_gap)
                users |= {position: user for position, user in zip(tried, read, strict=True) if user}
        if known := [reads[position].user_id for position, user in users.items() if user.replayed]:
            self.histories.engine.confirm(known)
        return [users[position] for position in range(len(reads))]

    def _recent_states(self, reads: Sequence[UserRead]) -> list[_Source | None]:
        recent = [self._recent.get(read.user_id) for read in reads]
        return [
            _Source(one.header, one.state, one.kept) if one and self._usable(one.header) else None for one in recent
        ]

    def _stored_states(self, reads: Sequence[UserRead]) -> list[_Source | None]:
        """The whole snapshot of a user whose state is needed in any case, and else the header alone."""
        whole = [read.user_id for read in reads if not read.append_only]
        heads = [read.user_id for read in reads if read.append_only]
        raws = iter(self._snapshots.read_many(whole) if whole else [])
        starts = iter(self._snapshots.read_headers(heads, HEADER_BYTES) if heads else [])
        sources: list[_Source | None] = []
        for read in reads:
            raw = next(starts if read.append_only else raws)
            header = self._header(raw)
            self._headers.put(read.user_id, header)
            sources.append(_Source(header, None, None, None if read.append_only else raw) if header else None)
        return sources

    def _no_states(self, reads: Sequence[UserRead]) -> list[_Source | None]:
        return [_Source(None, None, None) for _ in reads]

    def _read(
        self, reads: Sequence[UserRead], sources: Sequence[_Source], max_gap: int | None
    ) -> list[StoredUser | None]:
        """Users in order; None where a header is misleading."""
        user_ids = [read.user_id for read in reads]
        plans = [
            ReadPlan(
                read=read,
                header=source.header,
                state=source.state,
                kept=source.kept,
                rules=self.histories.rules,
                window=self._sizes.window,
                every=self.snapshot_every,
                limit=self.snapshot_limit,
                max_gap=max_gap,
            )
            for read, source in zip(reads, sources, strict=True)
        ]
        records = self.histories.engine.read_many(user_ids, lambda position, raw: plans[position].chunks(raw))
        snapshots = [source.raw for source in sources]
        wanted = [
            position
            for position, plan in enumerate(plans)
            if plan.complete and plan.header and plan.state is None and snapshots[position] is None
        ]
        if wanted:
            raws = self._snapshots.read_many([user_ids[position] for position in wanted])
            for position, raw in zip(wanted, raws, strict=True):
                snapshots[position] = raw
        return [self._user(*found) for found in zip(plans, records, snapshots, strict=True)]

    def history(self, user_id: bytes) -> History | None:
        """Everything stored of a user's history; None where there is no usable head."""
        return self.histories.history(user_id)

    def write_many(self, writes: Sequence[UserWrite]) -> list[WriteResult]:
        """See `HistoryStore.write_many`."""
        return self.histories.write_many(writes)

    def append_many(self, appends: Sequence[UserAppend], *, may_wait: bool = False) -> list[WriteResult | None]:
        """Append to histories of which nothing need be read; what is WRITTEN is durable, None takes the other way.

        Raises:
            StoreUnavailableError: the store fails; nothing is written, or, over a network, some of it.
        """
        user_ids = [new.user_id for new in appends]
        unknown = [user_id for user_id in user_ids if user_id not in self._headers]
        if unknown:
            for user_id, raw in zip(unknown, self._snapshots.read_headers(unknown, HEADER_BYTES), strict=True):
                self._headers.put(user_id, self._header(raw))
        headers = [self._headers.get(user_id) for user_id in user_ids]
        usable = [header if header and self._usable(header) else None for header in headers]
        return self.histories.append_many(appends, usable, every=self.snapshot_every, may_wait=may_wait)

    def remember(self, states: Sequence[NewSnapshot]) -> None:
        """Have states of committed histories at hand for the next requests; nobody may write into them any more."""
        for new in states if self._recent.size else ():
            header, known = self._header_of(new), self._recent.get(new.user_id)
            if known is None or (known.header, known.kept) != (header, new.kept):
                known = RecentState.of(header, new.state, kept=new.kept)
            self._recent.put(new.user_id, known)

    def drop_old_states(self) -> None:
        """Drop what has been at hand for a minute: the user may have been forgotten by another process."""
        self._recent.drop_old()
        if time.monotonic() >= self._decoded_until:
            self._decoded_until = time.monotonic() + _DECODED_LIFE_S
            drop_decoded()
            self._headers.clear()

    def write_snapshots(self, snapshots: Sequence[NewSnapshot]) -> int:
        """Keep states; how many failed. They are a cache: a failure is logged and costs time, nothing else.

        Nothing is kept of a user who was forgotten meanwhile, or has another history by now.
        """
        packed = [(new.user_id, pack_snapshot(self._header_of(new), new.state, self._sizes)) for new in snapshots]

        def still_of(position: int, raw: bytes) -> bool:
            head = unpack_head(raw, packed[position][0], self.types)
            return head is not None and head.incarnation == snapshots[position].revision[:DIGEST_BYTES]

        try:
            self._snapshots.write_many(packed, still_of)
        except StateStoreError as error:
            _LOG.log(logging.DEBUG if isinstance(error, SnapshotsAwayError) else logging.WARNING, "%s", error)
            return len(packed)
        for new in snapshots:
            self._headers.put(new.user_id, self._header_of(new))
        return 0

    def snapshot_capacity(self) -> int | None:
        """States of this model that there is room for; None where nothing limits them."""
        return self._snapshots.capacity()

    def forget(self, user_id: bytes) -> bool:
        """See `HistoryStore.forget`; states go too."""
        self._recent.drop(user_id)
        self._headers.drop(user_id)
        drop_decoded()
        return self.histories.forget(user_id)

    def users(self) -> Iterator[UserSummary]:
        """See `HistoryStore.users`."""
        return self.histories.users()

    def stat(self) -> StoreStat:
        """How full the store is."""
        return self.histories.stat()

    def close(self) -> None:
        """Let go of the store; it cannot be used afterwards."""
        self.histories.close()

    def _header_of(self, new: NewSnapshot) -> SnapshotHeader:
        return SnapshotHeader(
            incarnation=new.revision[:DIGEST_BYTES],
            event_count=new.event_count,
            digest=new.revision[DIGEST_BYTES:],
            fingerprint=self._marked(new.blind_to),
        )

    def _header(self, raw: Buffer | None) -> SnapshotHeader | None:
        header = None if raw is None else unpack_header(raw)
        return header if header and self._usable(header) else None

    def _usable(self, header: SnapshotHeader) -> bool:
        return header.fingerprint == self._fingerprint or header.fingerprint == self._marked(self.catalog_mark())

    def _marked(self, mark: bytes) -> bytes:
        """The fingerprint in the header of a state that is blind to a catalog."""
        return bytes(map(xor, self._fingerprint, mark)) if mark else self._fingerprint

    def _with_state(
        self, plan: ReadPlan, history: History, header: SnapshotHeader, state: dict[str, NDArray[Any]]
    ) -> StoredUser:
        user = plan.user(history, header, state)
        return replace(user, blind=True) if header.fingerprint != self._fingerprint else user

    def _user(self, plan: ReadPlan, records: UserRecords, snapshot: Buffer | None) -> StoredUser | None:
        absent = plan.absent(records)
        if absent or not plan.complete:
            return absent or plan.partial()
        history = plan.history(records)
        if plan.state is not None and plan.header and history.holds(plan.header):
            return self._with_state(plan, history, plan.header, plan.state)
        header = self._header(snapshot)
        if snapshot is not None and header and history.holds(header):
            state = unpack_state(snapshot, self._sizes)
            if state is not None:
                if self._far and self._recent.size:
                    state_read = RecentState(header=header, state=state, kept=header.event_count)
                    self._recent.put(plan.read.user_id, state_read)
                return self._with_state(plan, history, header, state)
        return plan.user(history, None, None) if plan.header is None else None
