"""Detects whether other processes that serve the same files are busy, by a lock on a file that all of them open."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from hytrec_export.errors import RepositoryError

PATIENCE = 8
"""Consecutive checks that must find no busy peer: a gap between two requests of a peer is not idleness."""


class PeerActivity:
    """Detects whether the other server processes are idle, so that this one may use every core for sharded work.

    Best effort: on a file system without locks peers never count as idle. Nothing is written, nobody waits longer
    than another process checks, and the kernel frees the lock of a process that dies.

    Args:
        file: any file that all processes can read.

    Raises:
        RepositoryError: the file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RepositoryError(f"{file} cannot be opened ({error.strerror}); build the repository again") from error
        self._counting = Lock()
        self._busy_threads = 0
        self._idle_checks = 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Mark this process as busy; several threads may be, each in a block of its own."""
        with self._counting:
            self._busy_threads += 1
            if self._busy_threads == 1:
                self._lock(fcntl.LOCK_SH)
        try:
            yield
        finally:
            with self._counting:
                self._busy_threads -= 1
                if self._busy_threads == 0:
                    self._lock(fcntl.LOCK_UN)

    def peers_idle(self) -> bool:
        """Whether for some time nobody but the calling thread, which must be busy, has been busy."""
        with self._counting:
            found = self._busy_threads == 1 and self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock(fcntl.LOCK_SH)  # also where the upgrade failed, which may have cost the shared lock
            self._idle_checks = self._idle_checks + 1 if found else 0
            return self._idle_checks > PATIENCE

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._file, kind)
        except OSError:
            return False
        return True
