"""One request at a time encodes a user's history again; those that waited for it find the state that it kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from hytrec.signature import USER_ID
from hytrec_export.serving.fused_pipeline import PipelineRequest

_FILE = "replays.lock"
_OFFSETS = 1 << 62
_Made = TypeVar("_Made")


class ReplayLocks:
    """A lock for every user, shared by the processes of a server: a byte of a file that nobody writes.

    The kernel frees the locks of a process that dies. Two users hardly ever share a byte, and then wait for each other.

    Args:
        folder: of the server's own; without one, nobody waits.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / _FILE

    def waiting(
        self, work: Callable[[Sequence[PipelineRequest]], _Made]
    ) -> Callable[[Sequence[PipelineRequest]], _Made]:
        """Wrap `work` so that at any moment it runs once for a user."""

        def alone(batch: Sequence[PipelineRequest]) -> _Made:
            with ExitStack() as held:
                for user_id in sorted({_user_id(request) for request in batch}):  # in order: nobody waits in a circle
                    held.enter_context(self._held(user_id))
                return work(batch)

        return alone

    @contextmanager
    def _held(self, user_id: bytes) -> Iterator[None]:
        opened = _locked(self._file, user_id) if self._file else None
        try:
            yield
        finally:
            if opened is not None:
                os.close(opened)


def _locked(file: Path, user_id: bytes) -> int | None:
    """The file, opened, with a user's lock; None where it cannot be had, as of a server that is gone.

    A lock belongs to an opening of the file, so that threads of one process wait for each other too.
    """
    try:
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    offset = int.from_bytes(hashlib.blake2b(user_id, digest_size=8).digest()) % _OFFSETS
    try:
        fcntl.fcntl(opened, fcntl.F_OFD_SETLKW, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0))
    except OSError:  # a file system without locks
        os.close(opened)
        return None
    return opened


def _user_id(request: PipelineRequest) -> bytes:
    """As it came: it is checked later."""
    given = request.inputs[USER_ID.name].flat[0]
    return given if isinstance(given, bytes) else str(given).encode()
