"""The files of a log: paths, folders and patterns, and what each file is by its content, not by its name."""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import lzma
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, cast

from hytrec.data.logs.remote import RemoteFile, is_remote, remote_files
from hytrec.errors import DataError

__all__ = ["Format", "LogFile", "decoded", "found_files"]

_GZIP, _ZSTD, _BZIP2, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00"
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel sheet; unpack it, or save the sheet as CSV",
    b"SQLite format 3\0": "an SQLite database; export the table as CSV",
    b"ARROW1": "an Arrow/Feather file; write it as Parquet",
    b"ORC": "an ORC file; write it as Parquet",
    b"Obj\x01": "an Avro file; write it as Parquet",
    b"\x89HDF": "an HDF5 file; write it as Parquet",
    b"\x80\x04": "a Python pickle; write it as Parquet",
    b"\x80\x05": "a Python pickle; write it as Parquet",
}
_PARQUET = b"PAR1"


class Format(StrEnum):
    """What a log file is."""

    PARQUET = "Parquet"
    JSON = "JSON lines"
    TEXT = "text"


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """One file of a log.

    Args:
        path: what the user knows it by; of a remote file its address.
        readable: what the engine reads: the file itself, or a decoded copy.
        format: by its content.
        compression: "gzip", "zstd" or "none", of `readable`.
    """

    path: Path | str
    readable: Path
    format: Format
    compression: str


def found_files(paths: Sequence[Path | str], *, folder: Path) -> list[LogFile]:
    """The files that paths, folders, patterns and addresses stand for, in the order given, those of a folder by name.

    A file that is met twice is read once. In folders, hidden files, those that begin with "_" (Spark's _SUCCESS) and
    .crc files are passed over; so are empty files everywhere.

    Args:
        folder: where files that the engine cannot decompress are unpacked, and remote ones are copied.

    Raises:
        DataError: a path is missing, nothing is there to read, a file is of a foreign format, or formats are mixed.
    """
    different: dict[Path | str, Path | RemoteFile] = {}  # a file that two patterns meet is read once
    for path in paths:
        for found in remote_files(str(path)) if is_remote(path) else _expanded(Path(path)):
            different.setdefault(found.url if isinstance(found, RemoteFile) else found.resolve(), found)
    files: list[LogFile] = []
    for number, file in enumerate(different.values()):
        shown, local = (file.url, file.copied(folder, number)) if isinstance(file, RemoteFile) else (file, file)
        if local.stat().st_size:
            files.append(_identified(local, folder, shown))
    if not files:
        raise DataError(f"{', '.join(map(str, paths))} holds no events; give a log with at least one row")
    other = next((file for file in files if file.format is not files[0].format), None)
    if other:
        raise DataError(
            f"{files[0].path} is {files[0].format}, {other.path} is {other.format}; give files of one format"
        )
    return files


def _expanded(path: Path) -> list[Path]:
    if path.is_dir():
        below = (file for file in path.rglob("*") if file.is_file())
        data = sorted(file for file in below if not _is_passed_over(file.relative_to(path)))
        if not data:
            raise DataError(f"{path} is a folder without data files; give the path of an event log")
        return data
    if path.exists():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns
    if not matches:
        raise DataError(
            f"{path} is not there; give the path of an event log: a file, a folder or a pattern as 'day-*.csv'"
        )
    return [file for match in matches for file in _expanded(match)]


def _is_passed_over(path: Path) -> bool:
    names = [part for part in path.parts if part.startswith((".", "_"))]
    return bool(names) or path.suffix == ".crc"


def _identified(path: Path, folder: Path, shown: Path | str) -> LogFile:
    """What a file is.

    Args:
        shown: what the user knows it by.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DataError(f"{shown} cannot be read ({error.strerror}); check its permissions") from error
    if start.startswith(_PARQUET):
        return LogFile(path=shown, readable=path, format=Format.PARQUET, compression="none")
    foreign = next((name for magic, name in _FOREIGN.items() if start.startswith(magic)), None)
    if foreign:
        raise DataError(f"{shown} is {foreign}")
    if path.suffix.lower() == ".parquet":
        raise DataError(f"{shown} cannot be read (it does not begin as Parquet does); check that it is whole")
    if start.startswith(_ZSTD):
        return LogFile(path=shown, readable=path, format=_zstd_format(path), compression="zstd")
    if start.startswith((_BZIP2, _XZ)):
        path_there = _unpacked(path, folder, shown)
        return LogFile(path=shown, readable=path_there, format=_text_format(path_there), compression="none")
    return LogFile(
        path=shown,
        readable=path,
        format=_text_format(path),
        compression="gzip" if start.startswith(_GZIP) else "none",
    )


def _zstd_format(path: Path) -> Format:
    """By name: Python cannot look into it."""
    return Format.JSON if {".json", ".jsonl", ".ndjson"} & set(map(str.lower, path.suffixes)) else Format.TEXT


def _text_format(path: Path) -> Format:
    with opened(path) as file:
        start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    return Format.JSON if start.startswith((b"{", b"[{")) else Format.TEXT


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, module in ((_GZIP, gzip), (_BZIP2, bz2), (_XZ, lzma)):
        if start.startswith(magic):
            return cast("IO[bytes]", module.open(path, "rb"))
    return path.open("rb")


def _unpacked(path: Path, folder: Path, shown: Path | str) -> Path:
    copy = folder / f"unpacked-{len(list(folder.iterdir()))}"
    try:
        with opened(path) as packed, copy.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{shown} cannot be unpacked ({error}); check that it is whole") from error
    return copy


def decoded(file: LogFile, *, encoding: str | None, folder: Path) -> LogFile:
    """The file as UTF-8: itself, or a copy where it is of another encoding.

    Raises:
        DataError: it is not of that encoding, or cannot be decompressed here.
    """
    start = b"" if file.compression == "zstd" else _start(file)
    encoding = encoding or ("utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8")
    if codecs.lookup(encoding).name in {"utf-8", "utf-8-sig", "ascii"}:
        return file
    if file.compression == "zstd":
        raise DataError(f"{file.path} is zstd-compressed and {encoding}; decompress it first: zstd -d {file.path}")
    copy = folder / f"decoded-{len(list(folder.iterdir()))}"
    try:
        with opened(file.readable) as source, copy.open("w", encoding="utf-8", newline="") as target:
            reader = codecs.getreader(encoding)(source)
            while text := reader.read(1 << 20):
                target.write(text)
    except (UnicodeError, OSError, EOFError) as error:
        raise DataError(f"{file.path} is not {encoding} ({error}); give its --encoding") from error
    return LogFile(path=file.path, readable=copy, format=_text_format(copy), compression="none")


def _start(file: LogFile) -> bytes:
    try:
        with opened(file.readable) as stream:
            return stream.read(4)
    except (OSError, EOFError) as error:
        raise DataError(f"{file.path} cannot be unpacked ({error}); check that it is whole") from error
