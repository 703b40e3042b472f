"""The embedded store, `sqlite:FOLDER`: histories in SQLite, snapshots in files beside it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hytrec.contract import DType
from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state.events import KeyTypes
from hytrec_export.state.folder import FolderSettings, StoreFolder
from hytrec_export.state.histories import HistoryStore, SnapshotsApart
from hytrec_export.state.kinds import Remark, StoreModel, register
from hytrec_export.state.options import DEFAULT_BYTES, Durability, StoreOptions
from hytrec_export.state.rules import HistoryRules
from hytrec_export.state.snapshot import snapshot_bytes
from hytrec_export.state.snapshot_file import SnapshotFiles, SqliteSnapshots
from hytrec_export.state.snapshot_places import SnapshotPlace
from hytrec_export.state.sqlite_engine import SqliteEngine
from hytrec_export.state.sqlite_file import SqliteFile
from hytrec_export.state.sqlite_place import SqlitePlace, refuse_snapshots_alone
from hytrec_export.state.store import StoreStat
from hytrec_export.state.sweep import SWEEP_LOCK_FILE, FileTurn, Sweep, Tell, keep_steady
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

OPEN_WAIT_S = 600.0
"""How long a compaction in another process is waited for."""


@register("sqlite")
class SqliteStores:
    """See `StoreKind`."""

    form = "sqlite:FOLDER"
    served = True

    def check_url(self, url: StoreUrl) -> None:
        """See `StoreKind`; any folder will do."""

    def open(
        self,
        options: StoreOptions,
        model: StoreModel,
        rules: HistoryRules,
        *,
        recent: int,
        served: bool,
        tell: Tell | None,
    ) -> StateStore:
        """See `StoreKind`; a missing folder is made."""
        with ExitStack() as failing:
            file, files = _open_folder(options, model)
            failing.callback(file.close)
            failing.callback(files.close)
            snapshots = _snapshots(files, model, max_bytes=options.snapshot_max_bytes, clock=rules.clock)
            failing.pop_all()
        engine = SqliteEngine(file, files)
        histories = HistoryStore(engine, rules=rules)
        keep_steady(histories)
        store = StateStore(
            histories,
            snapshots,
            sizes=model.sizes,
            fingerprint=bytes.fromhex(model.fingerprint),
            snapshot_every=options.snapshot_every,
            recent=recent,
        )
        file.chores += [store.drop_old_states, engine.drop_seen]
        if served or tell:
            sweep = Sweep(histories, turn=FileTurn(file.path.with_name(SWEEP_LOCK_FILE)), tell=tell)
            file.chores.append(sweep.step)
            file.at_close.append(sweep.close)
        return store

    def check(self, options: StoreOptions, model: StoreModel) -> StoreStat:
        """See `StoreKind`."""
        file, files = _open_folder(options, model, checked=True)
        engine = SqliteEngine(file, files)
        try:
            return engine.stat()
        finally:
            engine.close()

    def preflight(self, options: StoreOptions) -> list[Remark]:
        """See `StoreKind`; the folder is looked at elsewhere."""
        del options
        return []

    def snapshot_place(
        self, url: StoreUrl, model: StoreModel | None, *, max_bytes: int, clock: Callable[[], float]
    ) -> SnapshotPlace:
        """See `StoreKind`."""
        return SqlitePlace(_folder(url), model, max_bytes=max_bytes, clock=clock)

    def preflight_place(self, url: StoreUrl) -> list[Remark]:
        """See `StoreKind`."""
        if not _folder(url).exists():
            return [Remark(good=True, text=f"the snapshot store {url} will be made by the server")]
        snapshots, size = self._looked_at(url)
        return [Remark(good=True, text=f"the snapshot store {url} holds {snapshots} states in {size >> 20} MiB")]

    def _looked_at(self, url: StoreUrl) -> tuple[int, int]:
        place = SqlitePlace(_folder(url), None, max_bytes=0, clock=time.time)
        try:
            return place.stat()
        finally:
            place.close()

    def beside(self, url: StoreUrl, *, wait_s: float, alone: bool) -> HistoryStore:
        """See `StoreKind`."""
        with _existing(url, wait_s=wait_s, alone=alone) as (file, settings):
            histories = HistoryStore(SqliteEngine(file, SnapshotFiles(file)), rules=_rules(file, settings))
            histories.apart = SnapshotsApart.told(settings.snapshot_url, settings.snapshot_max_bytes)
            return histories

    def beside_for(self, url: StoreUrl, model: StoreModel, *, wait_s: float) -> StateStore:
        """See `StoreKind`."""
        with _existing(url, wait_s=wait_s, maintained=True) as (file, settings):
            check_key_types(file, model.key_types)
            rules = _rules(file, settings)
            files = SnapshotFiles(file)
            snapshots = _snapshots(files, model, max_bytes=settings.snapshot_max_bytes, clock=rules.clock)
            histories = HistoryStore(SqliteEngine(file, files), rules=rules)
            histories.apart = SnapshotsApart.told(settings.snapshot_url, settings.snapshot_max_bytes)
            return StateStore(
                histories,
                snapshots,
                sizes=model.sizes,
                fingerprint=bytes.fromhex(model.fingerprint),
                snapshot_every=settings.snapshot_every,
            )


def open_folder_beside(folder: Path, *, wait_s: float) -> tuple[HistoryStore, SqliteFile]:
    """`StoreKind.beside` of a folder, and the file in which it has its histories."""
    with _existing(StoreUrl.of_folder(folder), wait_s=wait_s) as (file, settings):
        return HistoryStore(SqliteEngine(file, SnapshotFiles(file)), rules=_rules(file, settings)), file


def check_key_types(file: SqliteFile, types: KeyTypes) -> None:
    """Record the types of a new store's keys, or compare them.

    Raises:
        StoreUnavailableError: the store holds keys of other types.
    """
    wanted = {"item_keys": types.item.value, "behavior_keys": types.behavior.value}

    def record(connection: sqlite3.Connection) -> dict[str, str]:
        refuse_snapshots_alone(connection, file.path.parent)
        connection.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", wanted.items())
        return _recorded(connection)

    found = file.change(record)
    if found != wanted:
        raise StoreUnavailableError(
            f"the state store {file.path.parent} holds item keys of type {found['item_keys']} and behavior keys of "
            f"type {found['behavior_keys']}, the model {wanted['item_keys']} and {wanted['behavior_keys']}; "
            "give a folder of its own, or build the model with the keys that the store has"
        )


def _open_folder(
    options: StoreOptions, model: StoreModel, *, checked: bool = False
) -> tuple[SqliteFile, SnapshotFiles]:
    """A store that may be new.

    Args:
        checked: whether it is looked at alone: it has the limit that it has, and remembers no options.
    """
    with ExitStack() as failing:
        folder = StoreFolder(_folder(options.url), create=True)
        failing.callback(folder.close)
        folder.share(wait_s=OPEN_WAIT_S)
        settings = FolderSettings(
            max_bytes=options.max_bytes,
            ttl_s=options.ttl_s,
            snapshot_every=options.snapshot_every,
            snapshot_max_bytes=options.snapshot_max_bytes,
            snapshot_url=options.snapshot_address,
            history_max_events=options.history_max_events,
        )
        if checked:
            settings = folder.settings() or settings
        else:
            folder.remember(settings)
        file = SqliteFile(folder, max_bytes=settings.max_bytes, power=options.durability is Durability.POWER)
        failing.callback(file.close)
        check_key_types(file, model.key_types)
        failing.pop_all()
    return file, SnapshotFiles(file)


@contextmanager
def _existing(
    url: StoreUrl, *, wait_s: float, alone: bool = False, maintained: bool = False
) -> Iterator[tuple[SqliteFile, FolderSettings]]:
    """The file of a store that is there, with the limits it has; it is closed where the block fails."""
    with ExitStack() as failing:
        folder = StoreFolder(_folder(url), create=False)
        failing.callback(folder.close)
        if alone:
            folder.exclusive()
        else:
            folder.share(wait_s=wait_s)
        settings = folder.settings() or FolderSettings(max_bytes=DEFAULT_BYTES)
        file = SqliteFile(folder, max_bytes=settings.max_bytes, power=not maintained, maintained=maintained)
        failing.callback(file.close)
        yield file, settings
        failing.pop_all()


def _rules(file: SqliteFile, settings: FolderSettings) -> HistoryRules:
    file.read(lambda connection: refuse_snapshots_alone(connection, file.path.parent))
    found = file.read(_recorded)
    return HistoryRules(
        types=KeyTypes(item=DType(found["item_keys"]), behavior=DType(found["behavior_keys"])),
        ttl_s=settings.ttl_s,
        max_events=settings.history_max_events,
    )


def _snapshots(
    files: SnapshotFiles, model: StoreModel, *, max_bytes: int, clock: Callable[[], float]
) -> SqliteSnapshots:
    name = f"{model.fingerprint}-{model.precision}"
    return files.open_model(name, slot_bytes=snapshot_bytes(model.sizes), max_bytes=max_bytes, clock=clock)


def _folder(url: StoreUrl) -> Path:
    return Path(url.location)


def _recorded(connection: sqlite3.Connection) -> dict[str, str]:
    query = "SELECT name, value FROM facts WHERE name IN ('item_keys', 'behavior_keys')"
    return dict(connection.execute(query).fetchall())
