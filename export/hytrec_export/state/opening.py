"""From options to an open store. Stores register by the scheme of their URL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hytrec.contract import DType, Sizes
from hytrec_export.errors import OptionError, StoreUnavailableError
from hytrec_export.state.events import KeyTypes
from hytrec_export.state.folder import FolderSettings, StoreFolder
from hytrec_export.state.histories import HistoryStore
from hytrec_export.state.memory_engine import MemoryEngine, MemorySnapshots
from hytrec_export.state.options import DEFAULT_BYTES, Durability, StoreOptions
from hytrec_export.state.rules import HistoryRules
from hytrec_export.state.snapshot import snapshot_bytes
from hytrec_export.state.snapshot_file import SnapshotFiles
from hytrec_export.state.sqlite_engine import SqliteEngine
from hytrec_export.state.sqlite_file import SqliteFile
from hytrec_export.state.store import StoreStat
from hytrec_export.state.users import StateStore

OPEN_WAIT_S = 600.0
"""How long a compaction in another process is waited for."""


@dataclass(frozen=True, kw_only=True)
class StoreModel:
    """The model that a store is opened for.

    Args:
        fingerprint: 32 hex digits.
        precision: class of the graphs' numbers; states of one are not used by another.
        key_types: of the vocabulary.
    """

    fingerprint: str
    precision: str
    sizes: Sizes
    key_types: KeyTypes


class OpenEngine(Protocol):
    """Opens a kind of store."""

    def __call__(
        self, options: StoreOptions, model: StoreModel, rules: HistoryRules, *, served: bool, recent: int
    ) -> StateStore:
        """The store that the options name."""


ENGINES: dict[str, OpenEngine] = {}
"""By URL scheme."""


def register(scheme: str) -> Callable[[OpenEngine], OpenEngine]:
    """Register what opens stores of a scheme."""

    def registered(opened: OpenEngine) -> OpenEngine:
        ENGINES[scheme] = opened
        return opened

    return registered


def open_store(
    options: StoreOptions,
    model: StoreModel,
    *,
    served: bool = False,
    recent: int = 0,
    clock: Callable[[], float] = time.time,
) -> StateStore:
    """Open the store that the options name.

    Args:
        served: the caller is one of a server's processes, which an in-memory store cannot connect.
        recent: users whose last state the process remembers; useful where it reads what it has written.

    Raises:
        OptionError: an unknown scheme, or an in-memory store for a server.
        StoreUnavailableError: the store cannot be opened, or holds keys of other types.
    """
    engine = ENGINES.get(options.scheme)
    if engine is None:
        raise OptionError(
            f"the state store's scheme is {options.scheme!r}; it must be one of: {', '.join(sorted(ENGINES))}"
        )
    rules = HistoryRules(types=model.key_types, ttl_s=options.ttl_s, max_events=options.history_max_events, clock=clock)
    return engine(options, model, rules, served=served, recent=recent)


@register("memory")
def _open_memory(
    options: StoreOptions, model: StoreModel, rules: HistoryRules, *, served: bool, recent: int
) -> StateStore:
    if served:
        raise OptionError("the memory state store cannot be served: its models are several processes; use sqlite")
    engine = MemoryEngine(max_bytes=options.max_bytes)
    return StateStore(
        HistoryStore(engine, rules=rules),
        MemorySnapshots(engine),
        sizes=model.sizes,
        fingerprint=bytes.fromhex(model.fingerprint),
        snapshot_every=options.snapshot_every,
        recent=recent,
    )


@register("sqlite")
def _open_sqlite(
    options: StoreOptions, model: StoreModel, rules: HistoryRules, *, served: bool, recent: int
) -> StateStore:
    del served  # any process may open it
    with ExitStack() as failing:
        file, files = _open_folder(options, model)
        failing.callback(file.close)
        failing.callback(files.close)
        snapshots = files.open_model(
            f"{model.fingerprint}-{model.precision}",
            slot_bytes=snapshot_bytes(model.sizes),
            max_bytes=options.snapshot_max_bytes,
            clock=rules.clock,
        )
        failing.pop_all()
    store = StateStore(
        HistoryStore(SqliteEngine(file, files), rules=rules),
        snapshots,
        sizes=model.sizes,
        fingerprint=bytes.fromhex(model.fingerprint),
        snapshot_every=options.snapshot_every,
        recent=recent,
    )
    file.chores.append(store.drop_old_states)
    return store


def _open_folder(options: StoreOptions, model: StoreModel) -> tuple[SqliteFile, SnapshotFiles]:
    with ExitStack() as failing:
        folder = StoreFolder(options.path, create=True)
        failing.callback(folder.close)
        folder.share(wait_s=OPEN_WAIT_S)
        folder.remember(FolderSettings(max_bytes=options.max_bytes, ttl_s=options.ttl_s))
        file = SqliteFile(folder, max_bytes=options.max_bytes, power=options.durability is Durability.POWER)
        failing.callback(file.close)
        check_key_types(file, model.key_types)
        failing.pop_all()
    return file, SnapshotFiles(file)


def try_store(options: StoreOptions, model: StoreModel) -> StoreStat:
    """Open an embedded store as a server would, and close it; its snapshots stay as they are.

    Raises:
        StoreUnavailableError: it cannot be opened, or holds keys of other types.
    """
    file, files = _open_folder(options, model)
    engine = SqliteEngine(file, files)
    try:
        return engine.stat()
    finally:
        engine.close()


def open_beside(path: Path, *, wait_s: float = 0.0, alone: bool = False) -> HistoryStore:
    """The histories of an existing store, whether or not a server has it open, with the limits it has.

    Args:
        alone: keep others out.

    Raises:
        StoreInUseError: another process has it open, and it is to be opened alone.
        StoreUnavailableError: there is no store, or it cannot be opened.
    """
    with ExitStack() as failing:
        folder = StoreFolder(path, create=False)
        failing.callback(folder.close)
        if alone:
            folder.exclusive()
        else:
            folder.share(wait_s=wait_s)
        settings = folder.settings() or FolderSettings(max_bytes=DEFAULT_BYTES)
        file = SqliteFile(folder, max_bytes=settings.max_bytes, power=True, maintained=False)
        failing.callback(file.close)
        found = file.read(_recorded)
        rules = HistoryRules(
            types=KeyTypes(item=DType(found["item_keys"]), behavior=DType(found["behavior_keys"])),
            ttl_s=settings.ttl_s,
            max_events=StoreOptions.history_max_events,
        )
        store = HistoryStore(SqliteEngine(file, SnapshotFiles(file)), rules=rules)
        failing.pop_all()
    return store


def check_key_types(file: SqliteFile, types: KeyTypes) -> None:
    """Record the types of a new store's keys, or compare them.

    Raises:
        StoreUnavailableError: the store holds keys of other types.
    """
    wanted = {"item_keys": types.item.value, "behavior_keys": types.behavior.value}

    def record(connection: sqlite3.Connection) -> dict[str, str]:
        connection.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", wanted.items())
        return _recorded(connection)

    found = file.change(record)
    if found != wanted:
        raise StoreUnavailableError(
            f"the state store {file.path.parent} holds item keys of type {found['item_keys']} and behavior keys of "
            f"type {found['behavior_keys']}, the model {wanted['item_keys']} and {wanted['behavior_keys']}; "
            "give a folder of its own, or build the model with the keys that the store has"
        )


def _recorded(connection: sqlite3.Connection) -> dict[str, str]:
    query = "SELECT name, value FROM facts WHERE name IN ('item_keys', 'behavior_keys')"
    return dict(connection.execute(query).fetchall())
