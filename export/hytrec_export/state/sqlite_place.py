"""Snapshots alone in a folder: files of fixed slots, and which slot is whose. See `SnapshotPlace`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from hytrec_export.errors import OptionError, StoreUnavailableError
from hytrec_export.state.folder import StoreFolder
from hytrec_export.state.kinds import StoreModel
from hytrec_export.state.options import DEFAULT_BYTES
from hytrec_export.state.snapshot import snapshot_bytes
from hytrec_export.state.snapshot_file import SnapshotFiles, SqliteSnapshots
from hytrec_export.state.snapshot_places import PlaceOfModel
from hytrec_export.state.sqlite_file import SqliteFile

SNAPSHOTS_ALONE = "snapshots"
"""Value of the fact `kind` where there are no histories."""
OPEN_WAIT_S = 600.0
_NO_SNAPSHOTS = "NOT EXISTS (SELECT 1 FROM snapshots WHERE user = users.id)"


class _ApartSnapshots(SqliteSnapshots):
    """Of users who have a row here only for as long as they have a snapshot."""

    def _slot_for(
        self, connection: sqlite3.Connection, user_id: bytes, still_of: Callable[[bytes], bool]
    ) -> int | None:
        connection.execute("INSERT OR IGNORE INTO users (user_id, head) VALUES (?, x'')", (user_id,))
        return super()._slot_for(connection, user_id, still_of)

    def _evict(self, connection: sqlite3.Connection, slot: int) -> None:
        query = "SELECT user FROM snapshots WHERE model = ? AND slot = ?"
        owners = connection.execute(query, (self._model, slot)).fetchall()
        super()._evict(connection, slot)
        for owner in owners:
            connection.execute(f"DELETE FROM users WHERE id = ? AND {_NO_SNAPSHOTS}", owner)  # noqa: S608 - our own


class SqlitePlace(PlaceOfModel[SqliteSnapshots]):
    """See `SnapshotPlace`.

    Args:
        folder: made when missing.
        model: None where nothing is read or kept.
        max_bytes: of all models' snapshots.
        clock: unix seconds.

    Raises:
        OptionError: the folder holds histories.
        StoreUnavailableError: it cannot be opened.
    """

    def __init__(self, folder: Path, model: StoreModel | None, *, max_bytes: int, clock: Callable[[], float]) -> None:
        with ExitStack() as failing:
            opened = StoreFolder(folder, create=True)
            failing.callback(opened.close)
            opened.share(wait_s=OPEN_WAIT_S)
            self._file = SqliteFile(opened, max_bytes=DEFAULT_BYTES, power=False)
            failing.callback(self._file.close)
            self._file.change(_claim)
            self._files = SnapshotFiles(self._file)
            failing.callback(self._files.close)
            self._snapshots = None
            if model is not None:
                self._snapshots = self._files.open_model(
                    f"{model.fingerprint}-{model.precision}",
                    slot_bytes=snapshot_bytes(model.sizes),
                    max_bytes=max_bytes,
                    clock=clock,
                    kind=_ApartSnapshots,
                )
                self._file.change(_drop_users_without_snapshots)
            failing.pop_all()

    def keep(self, snapshots: Sequence[tuple[bytes, bytes]]) -> None:
        """See `SnapshotPlace`."""
        self._of_model().write_many(snapshots, lambda *_: True)

    def drop(self, user_ids: Sequence[bytes]) -> None:
        """See `SnapshotPlace`; what was stored is overwritten."""

        def apply(connection: sqlite3.Connection) -> None:
            for user_id in user_ids:
                owner = connection.execute("SELECT id FROM users WHERE user_id = ?", (user_id,)).fetchone()
                if owner is None:
                    continue
                freed = connection.execute("SELECT model, slot FROM snapshots WHERE user = ?", owner).fetchall()
                connection.execute("DELETE FROM snapshots WHERE user = ?", owner)
                connection.executemany("INSERT OR IGNORE INTO free_slots VALUES (?, ?)", freed)
                self._files.erase(connection, freed)
                connection.execute("DELETE FROM users WHERE id = ?", owner)

        self._file.change_when_full(apply)
        self._file.purge()

    def stat(self) -> tuple[int, int]:
        """See `SnapshotPlace`."""
        return self._files.stat()

    def close(self) -> None:
        """See `SnapshotPlace`."""
        self._files.close()
        self._file.close()


def refuse_snapshots_alone(connection: sqlite3.Connection, folder: Path) -> None:
    """Raises: StoreUnavailableError: the folder was made for snapshots, and holds no histories."""
    if connection.execute("SELECT 1 FROM facts WHERE name = 'kind' AND value = ?", (SNAPSHOTS_ALONE,)).fetchone():
        raise StoreUnavailableError(
            f"{folder} is a snapshot store, which holds no histories; give the folder of the state store"
        )


def _claim(connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT 1 FROM facts WHERE name = 'item_keys'").fetchone():
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        raise OptionError(f"{Path(path).parent} holds users' histories; give the snapshot store a folder of its own")
    connection.execute("INSERT OR IGNORE INTO facts VALUES ('kind', ?)", (SNAPSHOTS_ALONE,))


def _drop_users_without_snapshots(connection: sqlite3.Connection) -> None:
    connection.execute(f"DELETE FROM users WHERE {_NO_SNAPSHOTS}")  # noqa: S608 - our own
