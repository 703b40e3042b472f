"""Files that appear whole or not at all; those with personal data are readable by their owner alone from the start."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

PRIVATE_FILE_MODE = 0o600


def private_file(path: Path) -> AbstractContextManager[IO[bytes]]:
    """`whole_file` with mode 0600, for personal data and secrets."""
    return whole_file(path, mode=PRIVATE_FILE_MODE)


@contextmanager
def whole_file(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A file to write; it takes its name, in place of an older file, when the block ends without an error.

    Args:
        mode: of the file, whatever the umask and whatever the mode of the older file.

    Raises:
        OSError: the file cannot be written, or the path is no file: a folder, or a device, which would be replaced.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            yield stream
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
