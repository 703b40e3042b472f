"""Builds beside the output folder and puts the result in its place in one step, so that a killed build harms nothing.

<output>.staging-xxxx/        locked by the build that made it; one whose lock is free was left by a dead build
    repository/               the new repository until the exchange, the old one after it
    previous/                 the old one, only where the file system cannot exchange two folders
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hytrec_export.errors import BuildError

NEW = "repository"
PREVIOUS = "previous"
_MARK = ".staging-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV}
_FIXABLE_BY_USER = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}


@contextmanager
def staging_folder(output: Path) -> Iterator[Path]:
    """An empty folder next to `output`, gone at the end; folders that dead builds left are removed first.

    Raises:
        BuildError: the folder cannot be made or written, or the disk is full.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        clear_dead(output)
        folder, lock = _locked_folder(output)
    except OSError as error:
        raise _cannot_write(output, error) from error
    try:
        yield folder
    except OSError as error:
        if error.errno not in _FIXABLE_BY_USER:
            raise
        raise _cannot_write(output, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear_dead(output: Path) -> None:
    """Remove what dead builds of `output` left; bring back the old repository where one died between two renames."""
    for folder in sorted(output.parent.glob(f"{glob.escape(output.name)}{_MARK}*")):
        with suppress(FileNotFoundError, NotADirectoryError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (folder / PREVIOUS).is_dir() and not output.exists():
                    (folder / PREVIOUS).rename(output)
                shutil.rmtree(folder)
            except BlockingIOError:
                continue
            finally:
                os.close(lock)


def put_in_place(staging: Path, output: Path, *, check_old: Callable[[Path], object] = lambda _: None) -> None:
    """Make `staging/repository` the folder `output`, all at once, and durable.

    Where the file system cannot exchange two folders, `output` is missing between two renames; a build killed there
    leaves the old one in `staging/previous`, from where the next build brings it back.

    Args:
        check_old: called with the old folder after it was moved away; if it raises, the old folder is moved back.
    """
    new, previous = staging / NEW, staging / PREVIOUS
    sync_tree(new)
    if not output.exists():
        new.rename(output)
    elif _exchange(new, output):
        try:
            check_old(new)
        except BaseException:
            _exchange(new, output)
            raise
    else:
        output.rename(previous)
        try:
            check_old(previous)
            new.rename(output)
        except BaseException:
            previous.rename(output)
            raise
    sync(output.parent)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder of a tree to the disk."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(new: Path, old: Path) -> bool:
    """Swap two folders atomically; False where the kernel or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(old))


def _cannot_write(output: Path, error: OSError) -> BuildError:
    return BuildError(
        f"{output} cannot be written ({error.strerror}: {error.filename or output.parent}); check permissions and "
        "free space, or choose another --output; the previous output is unchanged"
    )


def _locked_folder(output: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{output.name}{_MARK}", dir=output.parent))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(BlockingIOError, FileNotFoundError):
            # Another build's clear_dead may have found and removed the folder before the lock was taken.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder.chmod(0o755)
            return folder, lock
        os.close(lock)
