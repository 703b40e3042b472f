"""What a killed server leaves behind: python models that missed its end, shared memory, temporary folders.

Each server names its shared memory by a token of its own, and holds a lock on the file `/dev/shm/hytrec_TOKEN.lock`.
The lock belongs to tritonserver and its python models, who inherit the open file, so it ends when the last of them
does, whatever they died of. A free lock means that whatever carries the token is stale. A lock that only python models
hold means that their server is dead: they are orphans. Those that asked the kernel (`die_with_parent`) are gone in
milliseconds; one killed while it loads may not have asked yet, and idle ones were seen to wait for ever.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hytrec_export.errors import ServerError
from hytrec_export.optional import require
from hytrec_export.parent_death import STUB_PROGRAM
from hytrec_export.server.plain_paths import is_plain

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's own place for it
ENVIRONMENTS = Path("/tmp")  # noqa: S108 - where Triton's python backend makes its folders, whatever TMPDIR says
_STEM = "hytrec_"
_LOCK_NAME = re.compile(r"hytrec_([0-9a-f]{16})\.lock")
_UNNAMED_LOCK = re.compile(r"hytrec_[0-9a-f]{16}\.new")
_SERVER_PROGRAM = "tritonserver"
_PRIVATE_MODE = 0o600
_POLL_S = 0.01
_MAX_FOLDER_CHARACTERS = 60
"""The path of a Unix socket has 107 characters at most."""
_STARTING_S = 60.0
"""Within this time a folder may belong to a server that has just started."""


class ServerLease:
    """A server's own names, kept alive by a lock that its processes inherit.

    Raises:
        ServerError: the shared memory or the temporary folder is not writable.

    Attributes:
        shm_prefix: what the names of the server's shared memory begin with.
        folder: the server's temporary folder; its path is plain (see `plain_paths`).
    """

    def __init__(self, shared_memory: Path = SHARED_MEMORY) -> None:
        token = secrets.token_hex(8)
        self.shm_prefix = f"{_STEM}{token}_"
        self._path = shared_memory / f"{_STEM}{token}.lock"
        self.folder = _folder_of(token)
        try:
            self._lock_file: int | None = _locked_file(self._path)
            self.folder.mkdir(mode=0o700)  # after the lock: a free lock means a stale folder
        except OSError as error:
            raise ServerError(
                f"the server's files cannot be written ({error}); "
                f"it needs {shared_memory} and {self.folder.parent} (or TMPDIR) to be writable"
            ) from error

    @contextmanager
    def handed_over(self) -> Iterator[int]:
        """The descriptor to start the server with; this process's own copy of the lock is closed after."""
        if self._lock_file is None:
            raise ValueError("the lock was handed over before")
        try:
            yield self._lock_file
        finally:
            self._close()

    def make_private(self) -> None:
        """Let the owner alone open the server's shared memory: boost gives it mode 0644, whatever the umask (seen)."""
        for region in self._path.parent.glob(f"{self.shm_prefix}*"):
            with suppress(OSError):
                if stat.S_IMODE(region.stat().st_mode) != _PRIVATE_MODE:
                    region.chmod(_PRIVATE_MODE)

    def _close(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def remove(self, *, wait_s: float) -> bool:
        """End the python models of a server that has ended, then remove its resources; False when one still runs."""
        self._close()
        deadline = time.monotonic() + wait_s
        while not _remove_if_dead(self._path):
            if time.monotonic() > deadline:
                return False
            end_orphans(self._path)
            time.sleep(_POLL_S)
        return True


def remove_stale_resources(shared_memory: Path = SHARED_MEMORY, environments: Path = ENVIRONMENTS) -> int:
    """Remove what dead servers left; that of live servers and of other users is not touched.

    Returns:
        How many dead servers were cleaned up after.
    """
    removed = 0
    for path in shared_memory.glob(f"{_STEM}*"):
        if _LOCK_NAME.fullmatch(path.name):
            if end_orphans(path):
                time.sleep(_POLL_S)
            removed += _remove_if_dead(path)
        elif _UNNAMED_LOCK.fullmatch(path.name) and _is_older(path, time.time() - _STARTING_S):
            _remove_if_dead(path)
    _remove_python_environments(environments)
    return removed


def end_orphans(lock: Path) -> int:
    """Kill the processes that hold a server's lock, if all of them are python models; how many that were."""
    psutil = require("psutil", extra="embedded")
    holders = [process for process in psutil.process_iter() if _holds(process, lock)]
    if any(_program(process) != STUB_PROGRAM for process in holders):
        return 0
    for process in holders:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return len(holders)


def _holds(process: Any, file: Path) -> bool:
    """Whether a process has a file open; False where that is not ours to know."""
    psutil = require("psutil", extra="embedded")
    try:
        return any(opened.path == str(file) for opened in process.open_files())
    except (psutil.Error, OSError):
        return False


def _program(process: Any) -> str:
    psutil = require("psutil", extra="embedded")
    try:
        return Path(process.exe()).name
    except (psutil.Error, OSError):
        return ""


def _remove_python_environments(folder: Path) -> None:
    """Remove the empty folders that Triton's python backend made for environments and a kill left.

    Nobody says whose such a folder is: those are stale that are older than every server that runs.
    """
    psutil = require("psutil", extra="embedded")
    running = [process.info for process in psutil.process_iter(["name", "create_time"])]
    started = [info["create_time"] for info in running if info["name"] == _SERVER_PROGRAM and info["create_time"]]
    oldest_s = min([*started, time.time()])
    for path in folder.glob("python_env_??????"):
        if _is_older(path, oldest_s - _STARTING_S):
            with suppress(OSError):
                path.rmdir()


def _is_older(path: Path, time_s: float) -> bool:
    """Whether a file of this user was last written before a moment."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and status.st_mtime < time_s


def _locked_file(path: Path) -> int:
    """Create a locked file; it gets its name once locked, for an unlocked one is taken for a dead server's."""
    unnamed = path.with_suffix(".new")
    lock_file = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(lock_file, fcntl.LOCK_EX)
    unnamed.rename(path)
    return lock_file


def _remove_if_dead(lock: Path) -> bool:
    """Remove a server's resources if nobody holds its lock; True when there is nothing left of it."""
    try:
        lock_file = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        token = lock.stem.removeprefix(_STEM)
        for region in lock.parent.glob(f"{_STEM}{token}_*"):
            region.unlink(missing_ok=True)
        shutil.rmtree(_folder_of(token), ignore_errors=True)
        lock.unlink(missing_ok=True)
        return True
    finally:
        os.close(lock_file)


def _folder_of(token: str) -> Path:
    """A server's temporary folder, in TMPDIR if its path is plain (see `plain_paths`) and short enough for sockets."""
    temporary = Path(tempfile.gettempdir())
    usable = is_plain(temporary) and len(str(temporary)) <= _MAX_FOLDER_CHARACTERS
    return (temporary if usable else ENVIRONMENTS) / f"hytrec-server-{token}"
