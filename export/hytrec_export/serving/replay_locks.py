"""One request at a time encodes a user's history again; those that waited for it find the state that it kept."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from hytrec.signature import USER_ID
from hytrec_export.serving.fused_pipeline import PipelineRequest

_FILE = "replays.lock"
_OFFSETS = 1 << 62
_HELD = (errno.EAGAIN, errno.EACCES)
_POLL_S = 0.005
WAIT_S = 30.0
"""A history of 10,000 events takes a second or two."""
_Made = TypeVar("_Made")


class ReplayLocks:
    """A lock for every user, shared by the processes of a server: a byte of a file that nobody writes.

    The kernel frees the locks of a process that dies. Two users hardly ever share a byte, and then wait for each other.

    Args:
        folder: of the server's own; without one, nobody waits.
        wait_s: after so long a request goes on without the lock, as its holder may hang.
    """

    def __init__(self, folder: Path | None, *, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
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
        opened = _locked(self._file, user_id, self._wait_s) if self._file else None
        try:
            yield
        finally:
            if opened is not None:
                os.close(opened)


def _locked(file: Path, user_id: bytes, wait_s: float) -> int | None:
    """The file, opened, with a user's lock; None where it cannot be had: in time, or of a server that is gone.

    A lock belongs to an opening of the file, so that threads of one process wait for each other too.
    """
    try:
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    offset = int.from_bytes(hashlib.blake2b(user_id, digest_size=8).digest()) % _OFFSETS
    wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    give_up = time.monotonic() + wait_s
    while True:
        try:
            fcntl.fcntl(opened, fcntl.F_OFD_SETLK, wanted)
        except OSError as error:  # held, or a file system without locks
            if error.errno in _HELD and time.monotonic() < give_up:
                time.sleep(_POLL_S)
                continue
            os.close(opened)
            return None
        return opened


def _user_id(request: PipelineRequest) -> bytes:
    """As it came: it is checked later."""
    given = request.inputs[USER_ID.name].flat[0]
    return given if isinstance(given, bytes) else str(given).encode()
