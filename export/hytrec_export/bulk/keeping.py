"""Keeps states of users in a store: encodes what their states have not absorbed, and writes the snapshots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hytrec.contract import StateStatus
from hytrec_export.bulk.encoding import UserEncoder
from hytrec_export.errors import StoreFullError
from hytrec_export.progress import Advance
from hytrec_export.state.store import NewSnapshot, StoredUser, UserRead
from hytrec_export.state.users import StateStore

_READ_USERS = 64


class StateKeeper:
    """Keeps states of a repository's model for users who have events enough for one.

    Args:
        store: open for the encoder's model.
        counts: how many were `rebuilt` (got a state), `kept` (had one), are `short` (have too few events), `left`
            (there is no room for the state), are done `without_state`, and `events` encoded; added to.
        advance: told of every user who is done.
    """

    def __init__(self, store: StateStore, encoder: UserEncoder, *, counts: Counter[str], advance: Advance) -> None:
        self._store = store
        self._catalog = encoder.catalog()
        store.catalog_mark = lambda: self._catalog.mark
        self._encoder = encoder
        self._counts = counts
        self._advance = advance

    def keep(self, user_ids: Sequence[bytes]) -> None:
        """Make what is missing; users whose state is kept already are passed over.

        Raises:
            GraphError: the encoder made a state that cannot be.
            StoreFullError: states cannot be kept.
            StoreUnavailableError: the store cannot be read.
        """
        self._catalog = self._encoder.catalog()
        due = self._due(user_ids)
        capacity, counts = self._store.snapshot_capacity(), self._counts
        room = len(due) if capacity is None else max(0, capacity - counts["kept"] - counts["rebuilt"])
        self._count("left", len(due[room:]))
        for batch in self._encoder.encode([user for _, user in due[:room]], self._catalog):
            made = [(*due[encoded.position], encoded) for encoded in batch]
            snapshots = [
                NewSnapshot(
                    user_id=user_id,
                    revision=user.revision,
                    event_count=user.event_count,
                    state=encoded.tensors,
                    blind_to=encoded.blind_to,
                )
                for user_id, user, encoded in made
            ]
            if self._store.write_snapshots(snapshots):
                raise StoreFullError(
                    f"the states of {len(made)} users could not be kept, see the warning above; free disk, then run "
                    "this again: it goes on where it was"
                )
            counts["events"] += sum(user.gap for _, user, _ in made)
            self._count("rebuilt", len(made))

    def pass_over(self, users: int) -> None:
        """Tell of users who are done without a state."""
        self._count("without_state", users)

    def _due(self, user_ids: Sequence[bytes]) -> list[tuple[bytes, StoredUser]]:
        due: list[tuple[bytes, StoredUser]] = []
        for start in range(0, len(user_ids), _READ_USERS):
            some = user_ids[start : start + _READ_USERS]
            users = self._store.read_many([UserRead(user_id=one) for one in some])
            for user_id, user in zip(some, users, strict=True):
                if user.due:
                    due.append((user_id, user))
                else:
                    self._count(self._why_not(user), 1)
        return due

    def _why_not(self, user: StoredUser) -> str:
        enough = user.status is not StateStatus.NEW and user.event_count - user.first >= self._store.snapshot_every
        return "kept" if enough else "short"

    def _count(self, name: str, users: int) -> None:
        self._counts[name] += users
        self._advance(users)
