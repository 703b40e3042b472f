"""Logs that lie elsewhere (`s3://`, `gs://`, `memory://`, whatever fsspec knows), copied to disk to be read.

Credentials and endpoints are those of the file systems themselves: environment, profiles, fsspec's configuration.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hytrec.errors import DataError

__all__ = ["RemoteFile", "is_remote", "remote_files"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_MAX_NAME = 100


def is_remote(path: Path | str) -> bool:
    """Whether it is the address of a file system that fsspec opens, and no path of this machine."""
    return isinstance(path, str) and _URL.match(path) is not None


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a log.

    Args:
        system: an fsspec file system.
        path: in it.
        url: what the user knows it by.
    """

    system: Any
    path: str
    url: str

    def copied(self, folder: Path, number: int) -> Path:
        """A copy on this machine, whose name ends as the file's does.

        Raises:
            DataError: it cannot be read, or the disk is full.
        """
        copy = folder / f"remote-{number}-{PurePosixPath(self.path).name[-_MAX_NAME:]}"
        try:
            self.system.get_file(self.path, str(copy))
        except Exception as error:  # file systems raise errors of their own libraries
            raise _unreadable(self.url, error) from error
        return copy


def remote_files(url: str) -> list[RemoteFile]:
    """The files that an address, a folder's or a pattern stands for, by name.

    Hidden files, and those that begin with "_" (Spark's _SUCCESS), are passed over in folders.

    Raises:
        DataError: nothing is there, the address cannot be reached, or a package is missing.
    """
    system, path = _opened(url)
    try:
        matches = sorted(system.glob(path)) if re.search(r"[*?\[]", path) else [path]
        found = [file for match in matches for file in _below(system, match)]
    except Exception as error:  # as above
        raise _unreadable(url, error) from error
    if not found:
        raise DataError(
            f"{url} is not there, or holds no data files; give the address of an event log: a file, a folder or a "
            "pattern as 'day-*.csv'"
        )
    return [RemoteFile(system=system, path=file, url=str(system.unstrip_protocol(file))) for file in found]


def _opened(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    extra = _EXTRAS.get(protocol, "bulk")
    try:
        core: Any = importlib.import_module("fsspec.core")
        system, path = core.url_to_fs(url)
    except ImportError as error:
        package = {"s3": "s3fs", "gcs": "gcsfs"}.get(extra, "fsspec" if (error.name or "").startswith("fsspec") else "")
        what = f"{package} is not installed" if package else f"a package is missing ({_line(error)})"
        raise DataError(f"{url} cannot be read, {what}; run: pip install 'hytrec-export[{extra}]'") from error
    except ValueError as error:
        raise DataError(
            f"{url} has the unknown protocol {protocol!r}; give one of fsspec's, as s3:// or gs://, or a path"
        ) from error
    except Exception as error:  # as above
        raise _unreadable(url, error) from error
    return system, path


def _below(system: Any, path: str) -> list[str]:
    if not system.isdir(path):
        return [path] if system.exists(path) else []
    found: list[str] = sorted(system.find(path))
    return [file for file in found if not _is_passed_over(file.removeprefix(path))]


def _is_passed_over(below: str) -> bool:
    path = PurePosixPath(below.lstrip("/"))
    return any(part.startswith((".", "_")) for part in path.parts) or path.suffix == ".crc"


def _unreadable(url: str, error: Exception) -> DataError:
    return DataError(f"{url} cannot be read ({_line(error)}); check the address, the credentials and the free disk")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
