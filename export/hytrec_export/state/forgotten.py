"""Who was forgotten and when, in a file beside the data: restoring an older backup is to bring nobody back.

A line for each: unix seconds, and the user id hashed with the store's salt, which is no part of the file.
"""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from hytrec.private_file import private_file
from hytrec_export.errors import StoreFullError, StoreUnavailableError
from hytrec_export.state.folder import sync_folder

FORGOTTEN_FILE = "forgotten.log"
KEPT_S = 400 * 86_400
"""After so long a line goes when the store is compacted: no backup should be kept longer."""
_HASH_BYTES = 16
_LINE = re.compile(rb"(\d{1,19}) ([0-9a-f]{32})")


def hashed(salt: bytes, user_id: bytes) -> bytes:
    """Stands for a user; 16 bytes that say nothing without the store's salt."""
    return hmac.digest(salt, user_id, "sha256")[:_HASH_BYTES]


class ForgottenLog:
    """The log in a store's folder; several processes may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, user: bytes, at: int) -> None:
        """Note a user, durably.

        Args:
            user: `hashed`.
            at: unix seconds; what a backup holds of the user up to then is not restored.

        Raises:
            StoreFullError: the line cannot be written.
        """
        line = _line(user, at)
        try:
            new = not self.path.exists()
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise StoreFullError(
                f"the user is forgotten, but {self.path} cannot be written ({error.strerror}), so that restoring a "
                "backup would bring the user back; free disk and forget the user again"
            ) from error

    def read(self) -> dict[bytes, int]:
        """By hash, when each user was forgotten last; empty where there is no file.

        Raises:
            StoreUnavailableError: the file cannot be read.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreUnavailableError(f"cannot read {self.path} ({error.strerror}); check its permissions") from error
        found: dict[bytes, int] = {}
        for line in raw.split(b"\n"):
            if match := _LINE.fullmatch(line):
                user, at = bytes.fromhex(match[2].decode()), int(match[1])
                found[user] = max(at, found.get(user, 0))
        return found

    def replace(self, found: Mapping[bytes, int]) -> None:
        """Write the file anew, for its owner alone."""
        with private_file(self.path) as stream:
            for user, at in found.items():
                stream.write(_line(user, at))

    def prune(self) -> None:
        """Drop what is older than any backup should be; nobody else has the store open."""
        found = self.read()
        kept = {user: at for user, at in found.items() if at > time.time() - KEPT_S}
        if kept != found:
            self.replace(kept)


def _line(user: bytes, at: int) -> bytes:
    """The break comes first: a torn line spoils no other."""
    return b"\n%d %s" % (at, user.hex().encode())
