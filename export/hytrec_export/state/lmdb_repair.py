"""What is done before a file is opened that power loss, or a copy cut short, may have damaged.

Without an fsync at every commit, pages reach the disk in any order; LMDB trusts its pages and may crash the process
on bad ones. So the file is first walked by a verifier in plain Python, and when that finds something wrong, the
records that are whole are carried over into a new file by a child process that may crash.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import lmdb
from lmdb.verify import VerifyError, verify

from hytrec.signature import StateStatus
from hytrec_export.state.folder import COMPACTED_FOLDER, DATA_FILE, REPAIRED_FOLDER, StoreFolder, sync_folder
from hytrec_export.state.lmdb_values import DATABASES, Values
from hytrec_export.state.record import parse_header, parse_state

DAMAGED_FILE = "data.mdb.damaged"
_RECORDS_PER_COMMIT = 64
_LOG = logging.getLogger(__name__)


def repair(folder: StoreFolder) -> None:
    """Clear what a killed repair or compaction left, and carry sound records out of a damaged file.

    The folder must be held exclusively. The damaged file is kept beside the new one.
    """
    for name in (COMPACTED_FOLDER, REPAIRED_FOLDER):
        shutil.rmtree(folder.path / name, ignore_errors=True)
    data = folder.path / DATA_FILE
    if data.is_file() and data.stat().st_size and (folder.lost_power() or _cut_short(folder.path)):
        problem = _problem(data)
        if problem:
            kept = _salvage(folder.path)
            _LOG.warning(
                "the state store %s was damaged (%s): %d users kept; the damaged file is %s, delete it when done with",
                folder.path,
                problem,
                kept,
                DAMAGED_FILE,
            )
    folder.mark_synced()


def _cut_short(path: Path) -> bool:
    """Whether the file ends before its last page; pages freed at its end may rightly be missing."""
    try:
        with lmdb.open(str(path), readonly=True, lock=False, create=False) as env:
            expected = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    except lmdb.Error:
        return False  # not LMDB's at all: opening it will say so
    return (path / DATA_FILE).stat().st_size < expected


def _problem(data: Path) -> str:
    """What is wrong with a file, or nothing."""
    try:
        problems: list[str] = verify(str(data))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        return str(error)
    return problems[0] if problems else ""


def _salvage(path: Path) -> int:
    """Replace the file by one with the sound records; how many there are."""
    target = path / REPAIRED_FOLDER
    target.mkdir(mode=0o700)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the child runs LMDB alone, whatever threads the parent has
        child = os.fork()
    if child == 0:
        try:
            _carry_over(path, target)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with lmdb.open(str(target), max_dbs=DATABASES) as env:
        values = Values(env)
        with env.begin(buffers=True) as reading:
            kept = values.count(reading)
    (path / DAMAGED_FILE).unlink(missing_ok=True)
    (path / DAMAGED_FILE).hardlink_to(path / DATA_FILE)
    (target / DATA_FILE).replace(path / DATA_FILE)
    sync_folder(path)
    shutil.rmtree(target)
    return kept


def _carry_over(path: Path, target: Path) -> None:
    room = 2 * (path / DATA_FILE).stat().st_size + (1 << 20)
    with (
        lmdb.open(str(target), map_size=room, max_dbs=DATABASES) as sink,
        lmdb.open(str(path), map_size=room, max_dbs=DATABASES, readonly=True, lock=False) as source,
    ):
        kept = Values(sink)
        records = _sound_records(source)
        while batch := list(islice(records, _RECORDS_PER_COMMIT)):
            with sink.begin(write=True, buffers=True) as writing:
                for user_id, value in batch:
                    kept.put(writing, user_id, value, in_pieces=False)


def _sound_records(source: lmdb.Environment) -> Iterator[tuple[bytes, bytes]]:
    """Sound records in order, until the end or the first page that LMDB itself finds damaged."""
    after = b""
    with contextlib.suppress(lmdb.Error):
        values = Values(source, create=False)
        with source.begin(buffers=True) as reading:
            while heads := values.heads_after(reading, after, 1):
                user_id = heads[0][0]
                if user_id <= after:
                    return  # a damaged tree that leads back into itself
                after = user_id
                value = bytes(values.get(reading, user_id) or b"")
                if _is_sound(user_id, value):
                    yield user_id, value


def _is_sound(user_id: bytes, value: bytes) -> bool:
    header = parse_header(value, user_id)
    if isinstance(header, StateStatus):
        return header is StateStatus.FOREIGN
    return parse_state(value, header) is not None
