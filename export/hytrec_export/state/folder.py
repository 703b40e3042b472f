"""The folder of an embedded store: who has it open, and what is remembered beside the data.

users.sqlite3        heads and histories; beside it SQLite's -wal and -shm
*.snapshots, *.used  snapshots of one model, and when each was last used
forgotten.log        users who were forgotten, hashed, and when: for restoring backups
store.lock           flock: shared while the store is open, exclusive while it is compacted
sweep.lock           flock: held by the process that looks through the users
write.lock           flock: held by the process that writes
store.json           format version, limits and time-to-live of the last server
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hytrec_export.errors import NoStoreError, StoreInUseError, StoreUnavailableError
from hytrec_export.state.options import StoreOptions

DATA_FILE = "users.sqlite3"
SETTINGS_FILE = "store.json"
_LOCK_FILE = "store.lock"
_FORMAT_VERSION = 2
_OLD_DATA_FILE = "data.mdb"
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """What is remembered beside the data.

    Args:
        max_bytes, ttl_s, snapshot_every, snapshot_max_bytes, snapshot_url, history_max_events: options of the last
            server.
    """

    max_bytes: int
    ttl_s: int | None = None
    snapshot_every: int = StoreOptions.snapshot_every
    snapshot_max_bytes: int = StoreOptions.snapshot_max_bytes
    snapshot_url: str | None = None
    history_max_events: int = StoreOptions.history_max_events


class StoreFolder:
    """A store's folder, held open with a shared or an exclusive lock.

    Args:
        create: make the folder when it is missing.

    Raises:
        StoreUnavailableError: the folder is missing or cannot be written.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        if (path / _OLD_DATA_FILE).is_file() and not (path / DATA_FILE).is_file():
            raise StoreUnavailableError(
                f"{path} holds states of an earlier hytrec-export, which cannot be read as histories; give another "
                "folder, and send the users' histories again with the client's backfill"
            )
        if not create and not (path / DATA_FILE).is_file():
            raise NoStoreError(f"there is no state store in {path}; give the folder that the server was given")
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailableError(
                f"cannot use {path} as a state store ({error.strerror}); give a folder this user may write to"
            ) from error

    def try_exclusive(self) -> bool:
        """Become the only user of the folder, if nobody else has it open."""
        return self._flock(fcntl.LOCK_EX)

    def exclusive(self) -> None:
        """Become the only user of the folder.

        Raises:
            StoreInUseError: another process has it open.
        """
        if not self.try_exclusive():
            raise StoreInUseError(f"the state store {self.path} is open in another process; stop the server first")

    def share(self, *, wait_s: float) -> None:
        """Use the folder together with others.

        Raises:
            StoreUnavailableError: someone else kept it for themselves for `wait_s` seconds.
        """
        deadline = time.monotonic() + wait_s
        while not self._flock(fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"the state store {self.path} is being compacted; try again when that is done"
                )
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def settings(self) -> FolderSettings | None:
        """What is remembered; None in a new folder.

        Raises:
            StoreUnavailableError: the file is damaged or of another format version.
        """
        path = self.path / SETTINGS_FILE
        try:
            values = json.loads(path.read_text())
            version = values.pop("format_version")
            settings = FolderSettings(**values) if version == _FORMAT_VERSION else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreUnavailableError(f"{path} is damaged ({error}); delete this one file and start again") from error
        if settings is None:
            raise StoreUnavailableError(
                f"{path} has format version {version}; this hytrec-export reads {_FORMAT_VERSION}; "
                "use the version that wrote it, or another folder"
            )
        return settings

    def remember(self, settings: FolderSettings) -> None:
        """Write the settings if they changed, durably."""
        if settings == self.settings():
            return
        temporary = self.path / f"{SETTINGS_FILE}.{os.getpid()}"
        with temporary.open("w") as file:
            json.dump({"format_version": _FORMAT_VERSION, **asdict(settings)}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / SETTINGS_FILE)
        sync_folder(self.path)

    def _flock(self, mode: int) -> bool:
        try:
            fcntl.flock(self._lock_fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
