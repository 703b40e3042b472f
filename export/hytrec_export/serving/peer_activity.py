"""Whether other processes that serve the same files are at work, told by a lock on a file they all have."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

from hytrec_export.errors import RepositoryError

PATIENCE = 8
"""So many pieces of work in a row must have found nobody: a gap between two of a neighbour's is no rest."""
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class PeerActivity:
    """Lets a process know that it alone is at work, and so may take every core for what can be done in pieces.

    A guess, not a promise: on a file system without locks nobody is ever alone. Nothing is written, nobody waits for
    longer than another one asks, and the kernel frees the lock of a process that dies.

    Args:
        file: any file that all of them can read.

    Raises:
        RepositoryError: the file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RepositoryError(f"{file} cannot be opened ({error.strerror}); build the repository again") from error
        self._counting = Lock()
        self._at_work = 0
        self._times_alone = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A piece of work; several threads may be at one each."""
        with self._counting:
            self._at_work += 1
            if self._at_work == 1:
                self._lock(fcntl.LOCK_SH)
        try:
            yield
        finally:
            with self._counting:
                self._at_work -= 1
                if self._at_work == 0:
                    self._lock(fcntl.LOCK_UN)

    def working(self, work: Callable[[_Given], _Made]) -> Callable[[_Given], _Made]:
        """`work` as a piece of work."""

        def at_work(given: _Given) -> _Made:
            with self.at_work():
                return work(given)

        return at_work

    def alone(self) -> bool:
        """Whether for some time nobody has been at work but the thread that asks."""
        with self._counting:
            found = self._at_work == 1 and self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock(fcntl.LOCK_SH)  # also where asking for more failed, which may have cost what was held
            self._times_alone = self._times_alone + 1 if found else 0
            return self._times_alone > PATIENCE

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._file, kind)
        except OSError:
            return False
        return True
