"""What is done before a file is opened that power loss, or a copy cut short, may have damaged.

Without an fsync at every commit, pages reach the disk in any order; LMDB trusts its pages and may crash the process
on bad ones. So the file is first walked by a verifier in plain Python, and when that finds something wrong, the
records that are whole are carried over into a new file.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import lmdb
from lmdb.verify import VerifyError, verify

from hytrec.contract import StateStatus
from hytrec_export.state.folder import (
    COMPACTED_FOLDER,
    DATA_FILE,
    REPAIRED_FOLDER,
    SETTINGS_FILE,
    StoreFolder,
    sync_folder,
)
from hytrec_export.state.lmdb_pages import DamagedFile
from hytrec_export.state.lmdb_values import DATABASES, PIECES, VALUES, Values
from hytrec_export.state.record import Buffer, parse_header, parse_state

DAMAGED_FILE = "data.mdb.damaged"
_LOG = logging.getLogger(__name__)


def repair(folder: StoreFolder) -> None:
    """Clear what a killed repair or compaction left, and carry sound records out of a damaged file.

    The folder must be held exclusively. The damaged file is kept beside the new one.
    """
    for name in (COMPACTED_FOLDER, REPAIRED_FOLDER):
        shutil.rmtree(folder.path / name, ignore_errors=True)
    for temporary in folder.path.glob(f"{SETTINGS_FILE}.*"):
        temporary.unlink()
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
    room = 2 * (path / DATA_FILE).stat().st_size + (1 << 20)
    damaged = DamagedFile(path / DATA_FILE)
    with lmdb.open(str(target), map_size=room, max_dbs=DATABASES, mode=0o600, sync=False) as env:
        values = Values(env)
        kept = _carry_over(damaged, env, values)
        env.sync(True)
    damaged.close()
    (path / DAMAGED_FILE).unlink(missing_ok=True)
    (path / DAMAGED_FILE).hardlink_to(path / DATA_FILE)
    (target / DATA_FILE).replace(path / DATA_FILE)
    sync_folder(path)
    shutil.rmtree(target)
    return kept


def _carry_over(damaged: DamagedFile, env: lmdb.Environment, values: Values) -> int:
    kept = 0
    for table in (PIECES, VALUES):
        for key, value in damaged.table(table):
            with env.begin(write=True, buffers=True) as txn:
                if not values.put_raw(txn, table, key, value) or table == PIECES:
                    continue
                sound = _is_sound(key, values.get(txn, key) or b"")
                kept += sound
                if not sound:
                    values.delete(txn, key)
    return kept


def _is_sound(user_id: bytes, value: Buffer) -> bool:
    header = parse_header(value, user_id)
    if isinstance(header, StateStatus):
        return header is StateStatus.MODEL_MISMATCH
    return parse_state(value, header) is not None
