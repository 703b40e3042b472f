"""Backups of the embedded store: made while a server runs, restored without those who were forgotten since."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hytrec_export.errors import OptionError, StateStoreError, StoreUnavailableError
from hytrec_export.progress import Advance, Progress, silent
from hytrec_export.state.folder import DATA_FILE, SETTINGS_FILE, StoreFolder, sync_folder
from hytrec_export.state.forgotten import FORGOTTEN_FILE, ForgottenLog, hashed
from hytrec_export.state.histories import HistoryStore
from hytrec_export.state.sqlite_file import SqliteFile
from hytrec_export.state.sqlite_store import open_folder_beside
from hytrec_export.state.url import StoreUrl

_OPEN_WAIT_S = 2.0
_PAGES = 1_024
"""Copied between two looks at the progress: 4 MiB."""
_WORK_FOLDER = "restoring"
_SALT = "SELECT value FROM facts WHERE name = 'salt'"


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What `state backup` wrote."""

    folder: str
    users: int
    file_bytes: int


@dataclass(frozen=True, kw_only=True)
class Restore:
    """What `state restore` did.

    Args:
        users: in the store now.
        forgotten: users of the backup who were forgotten after it, and so were left out.
    """

    users: int
    forgotten: int


def backup_store(url: StoreUrl, destination: Path, *, progress: Progress = silent) -> Backup:
    """Copy a store's histories, of one moment, into a new folder; servers go on. States are not copied.

    Raises:
        OptionError: the destination exists, or the store is none of a folder.
        StoreUnavailableError: there is no store, it cannot be read, or the copy cannot be written.
    """
    source = _folder_of(url)
    if os.path.lexists(destination):
        raise OptionError(f"{destination} exists; give a folder that does not, for example one named by the date")
    store, file = open_folder_beside(source, wait_s=_OPEN_WAIT_S)
    partial = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        with _written(partial):
            partial.mkdir(mode=0o700, parents=True)
            users = file.read(lambda connection: _copy(connection, partial / DATA_FILE, progress))
            for name in (SETTINGS_FILE, FORGOTTEN_FILE):
                if (source / name).exists():
                    _copy_file(source / name, partial / name)
            size = (partial / DATA_FILE).stat().st_size
            sync_folder(partial)
            partial.rename(destination)
            sync_folder(destination.parent)
    finally:
        store.close()
        shutil.rmtree(partial, ignore_errors=True)
    return Backup(folder=str(destination), users=users, file_bytes=size)


def restore_store(
    backup: Path,
    url: StoreUrl,
    *,
    replace: bool = False,
    forgotten: Sequence[Path] = (),
    progress: Progress = silent,
) -> Restore:
    """Put a backup in a store's place, without the users who were forgotten after it was made. No server may run.

    Who was forgotten stands in the log of the store that is replaced, and in the logs given. A user is left out who was
    last written not later than forgotten. It may be interrupted, and made again.

    Args:
        replace: put it in the place of a store that is there.
        forgotten: further logs, `forgotten.log` of a store that is lost.

    Raises:
        OptionError: there is a store, and it is not to be replaced; or it is none of a folder.
        StoreInUseError: another process has the store open.
        StoreUnavailableError: there is no backup, it is damaged, or the store cannot be written.
    """
    folder = _folder_of(url)
    if not (backup / DATA_FILE).is_file():
        raise StoreUnavailableError(f"there is no backup in {backup}; give a folder that state backup has made")
    for path in forgotten:
        if not path.is_file():
            raise OptionError(f"there is no file {path}; give the {FORGOTTEN_FILE} of the store that was lost")
    there = (folder / DATA_FILE).exists()
    if there and not replace:
        raise OptionError(f"{folder} holds a state store; add --replace to put the backup in its place")
    with closing(StoreFolder(folder, create=True)) as place:
        place.exclusive()
        work = folder / _WORK_FOLDER
        with _written(work):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(mode=0o700)
            for name in (DATA_FILE, DATA_FILE + "-wal", SETTINGS_FILE):
                if (backup / name).exists():
                    _copy_file(backup / name, work / name)
            own = ForgottenLog(folder / FORGOTTEN_FILE)
            logs = (own, ForgottenLog(backup / FORGOTTEN_FILE), *map(ForgottenLog, forgotten))
            salts = [_salt(folder)] if there else []
            result, known = _without_forgotten(backup, work, _merged([log.read() for log in logs]), salts, progress)
            own.replace(known)
            _put_in_place(work, folder)
            shutil.rmtree(work)
    return result


def _without_forgotten(
    backup: Path, work: Path, known: Mapping[bytes, int], salts: Sequence[bytes | None], progress: Progress
) -> tuple[Restore, dict[bytes, int]]:
    """Forget users of a copied store again; and the log, which names them by the copy's salt too."""
    store, file = _opened_copy(backup, work)
    try:
        own_salt: bytes = file.read(lambda connection: connection.execute(_SALT).fetchone()[0])
        after = dict(known)
        users = store.stat().users
        dropped = 0
        with progress("looking for users who were forgotten", users) as advance:
            for user in store.users():
                hashes = [hashed(salt, user.user_id) for salt in (own_salt, *salts) if salt]
                at = max(known.get(one, -1) for one in hashes)
                if user.written_at <= at:
                    store.drop(user.user_id)
                    after[hashes[0]] = at
                    dropped += 1
                advance(1)
    finally:
        store.close()
    return Restore(users=users - dropped, forgotten=dropped), after


def _copy(connection: sqlite3.Connection, path: Path, progress: Progress) -> int:
    """Copy a database in the state of an open read transaction; the number of its users."""
    (users,) = connection.execute("SELECT count(*) FROM users").fetchone()  # from here on all is of this moment
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with progress("copying pages", pages) as advance, closing(sqlite3.connect(path, isolation_level=None)) as copy:
            connection.backup(copy, pages=_PAGES, progress=_telling(advance, pages), sleep=0)
            for table in ("snapshots", "free_slots", "models"):
                copy.execute(f"DELETE FROM {table}")  # noqa: S608 - of three names
    except sqlite3.Error as error:
        raise StoreUnavailableError(f"cannot write {path} ({error}); free disk and try again") from error
    return int(users)


def _telling(advance: Advance, pages: int) -> Callable[[int, int, int], None]:
    told = 0

    def tell(_status: int, remaining: int, _total: int) -> None:
        nonlocal told
        done = max(told, pages - remaining)
        advance(done - told)
        told = done

    return tell


def _put_in_place(work: Path, folder: Path) -> None:
    """Exchange the data; nothing of what belongs to the old data may be taken for the new."""
    for old in [*folder.glob(DATA_FILE + "-*"), *folder.glob("*.snapshots"), *folder.glob("*.used")]:
        old.unlink(missing_ok=True)
    for name in (SETTINGS_FILE, DATA_FILE):
        if (work / name).exists():
            (work / name).replace(folder / name)
    sync_folder(folder)


def _opened_copy(backup: Path, work: Path) -> tuple[HistoryStore, SqliteFile]:
    """A copied store, every page of it checked."""
    try:
        store, file = open_folder_beside(work, wait_s=0.0)
    except StoreUnavailableError as error:
        raise _unusable(backup, work, error.__cause__ or error) from error
    try:
        found = file.read(lambda connection: connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except StoreUnavailableError as error:
        found = str(error.__cause__)
    if found != "ok":
        store.close()
        raise _unusable(backup, work, found)
    return store, file


def _unusable(backup: Path, work: Path, reason: object) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the backup {backup} cannot be used ({reason}); restore another one; {work.parent} is unchanged"
    )


def _merged(logs: Sequence[Mapping[bytes, int]]) -> dict[bytes, int]:
    merged: dict[bytes, int] = {}
    for log in logs:
        for user, at in log.items():
            merged[user] = max(at, merged.get(user, 0))
    return merged


def _salt(folder: Path) -> bytes | None:
    """Salt of a store that is to be replaced; None where it cannot be read any more."""
    try:
        with closing(sqlite3.connect(folder / DATA_FILE)) as connection:
            found = connection.execute(_SALT).fetchone()
    except sqlite3.Error:
        return None
    return bytes(found[0]) if found else None


def _copy_file(source: Path, destination: Path) -> None:
    """Copy a file for its owner alone, durably."""
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as written, source.open("rb") as read:
        shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fsync(descriptor)


def _folder_of(url: StoreUrl) -> Path:
    if url.folder is None:
        raise OptionError(
            f"the state store {url} is no folder; back it up and restore it by its own means, "
            "of Redis: redis-cli --rdb FILE"
        )
    return url.folder


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Turn the disk's errors into one line, and leave no half-made folder."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StoreUnavailableError(
            f"cannot write {error.filename or folder} ({error.strerror}); give another folder, or free disk"
        ) from error
    except StateStoreError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
