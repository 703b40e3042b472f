"""The three ways to open an LMDB store: a server's, the command line's beside it, and alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hytrec_export.state.folder import FolderSettings, StoreFolder, boot_id
from hytrec_export.state.lmdb_file import LmdbFile
from hytrec_export.state.lmdb_repair import repair
from hytrec_export.state.options import DEFAULT_BYTES, Durability, StoreOptions

OPEN_WAIT_S = 600.0
"""How long a compaction or a repair in another process is waited for."""


def open_for_serving(options: StoreOptions, *, wait_s: float = OPEN_WAIT_S) -> LmdbFile:
    """Open a store with a server's options, making it when missing, and remember its limits beside it.

    Raises:
        StoreUnavailableError: the folder cannot be used, is being compacted, or holds something else.
    """
    with _closed_on_error(StoreFolder(options.path, create=True)) as folder:
        known = _repair_and_share(folder, wait_s)
        flush = options.durability is Durability.POWER
        unsynced = known.unsynced_boot if flush else boot_id()
        folder.remember(FolderSettings(max_bytes=options.max_bytes, ttl_s=options.ttl_s, unsynced_boot=unsynced))
        return LmdbFile(folder, max_bytes=options.max_bytes, flush=flush)


def open_beside(path: Path, *, wait_s: float = 0.0) -> tuple[LmdbFile, FolderSettings]:
    """Open an existing store with the limits it has, whether or not a server has it open.

    Raises:
        StoreUnavailableError: there is no store, or as for `open_for_serving`.
    """
    with _closed_on_error(StoreFolder(path, create=False)) as folder:
        settings = _repair_and_share(folder, wait_s)
        return LmdbFile(folder, max_bytes=settings.max_bytes, flush=True), settings


def open_alone(path: Path) -> tuple[LmdbFile, FolderSettings]:
    """Open an existing store that nobody else has open, and keep others out.

    Raises:
        StoreInUseError: another process has it open.
        StoreUnavailableError: there is no store, or LMDB cannot open it.
    """
    with _closed_on_error(StoreFolder(path, create=False)) as folder:
        folder.exclusive()
        repair(folder)
        settings = _settings(folder)
        return LmdbFile(folder, max_bytes=settings.max_bytes, flush=True), settings


@contextmanager
def _closed_on_error(folder: StoreFolder) -> Iterator[StoreFolder]:
    try:
        yield folder
    except BaseException:
        folder.close()
        raise


def _repair_and_share(folder: StoreFolder, wait_s: float) -> FolderSettings:
    if folder.try_exclusive():
        repair(folder)
    folder.share(wait_s=wait_s)
    return _settings(folder)


def _settings(folder: StoreFolder) -> FolderSettings:
    return folder.settings() or FolderSettings(max_bytes=DEFAULT_BYTES)
