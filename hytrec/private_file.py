"""Files that hold personal data: readable by their owner alone, from the moment they exist."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PRIVATE_FILE_MODE = 0o600


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write; it takes its name, in place of an older file, when the block ends without an error.

    Its mode is 0600 whatever the umask and whatever the mode of the older file.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, PRIVATE_FILE_MODE)
            yield stream
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
