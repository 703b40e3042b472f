"""The embedded state store's engine against LMDB, on the real access pattern: read users, append an event to each.

    python -m hytrec_benchmarks.state_store --folder /var/tmp/stores --output reports/state_store.json

Two processes at once, batches of 1 to 16 users, users with 100 events before. Both engines hold the very same records
(`hytrec_export.state.head`); LMDB writes without fsync, as SQLite does with `synchronous` NORMAL. Needs `pip install
lmdb`. Prints a table; `bytes` are those given to write calls for an append, logs and checkpoints included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hytrec.contract import DType
from hytrec.signature import COUNTED_REQUEST
from hytrec_export.optional import require
from hytrec_export.state.engine import ChunksWanted, Decision, RecordEngine, UserRecords
from hytrec_export.state.events import KeyTypes, StoredEvents
from hytrec_export.state.folder import StoreFolder
from hytrec_export.state.histories import HistoryStore
from hytrec_export.state.rules import HistoryRules
from hytrec_export.state.snapshot_file import SnapshotFiles
from hytrec_export.state.sqlite_engine import SqliteEngine
from hytrec_export.state.sqlite_file import SqliteFile
from hytrec_export.state.store import Outcome, StoreStat, UserWrite

TYPES = KeyTypes(item=DType.INT64, behavior=DType.BYTES)
BATCHES = (1, 4, 16)
PROCESSES = 2
EVENTS_BEFORE = 100
LIMIT_BYTES = 4 << 30
_CHUNK = b"\xff"


class LmdbEngine:
    """As much of `RecordEngine` as an append needs, in LMDB."""

    def __init__(self, folder: Path) -> None:
        import lmdb  # noqa: PLC0415 - of this comparison alone

        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._env = lmdb.open(str(folder), map_size=LIMIT_BYTES, sync=False)

    def read_many(self, user_ids: Sequence[bytes], wanted: ChunksWanted) -> list[UserRecords]:
        """See `RecordEngine`."""
        with self._env.begin() as txn:
            return [self._read(txn, user_id, place, wanted) for place, user_id in enumerate(user_ids)]

    def change_many(self, user_ids: Sequence[bytes], decisions: Sequence[Decision]) -> None:
        """See `RecordEngine`."""
        with self._env.begin(write=True) as txn:
            for user_id, decide in zip(user_ids, decisions, strict=True):
                change = decide(UserRecords(head=txn.get(user_id)))
                if change:
                    txn.put(user_id, change.head)
                    for number, record in change.closed.items():
                        txn.put(user_id + _CHUNK + number.to_bytes(4, "big"), record)

    def stat(self) -> StoreStat:
        """See `RecordEngine`."""
        stat = self._env.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        size = (self._folder / "data.mdb").stat().st_size
        return StoreStat(
            users=stat["entries"], used_bytes=pages * stat["psize"], file_bytes=size, limit_bytes=LIMIT_BYTES
        )

    def close(self) -> None:
        """See `RecordEngine`."""
        self._env.sync(True)
        self._env.close()

    def _read(self, txn: Any, user_id: bytes, place: int, wanted: ChunksWanted) -> UserRecords:
        head = txn.get(user_id)
        if head is None:
            return UserRecords()
        keys = ((number, user_id + _CHUNK + number.to_bytes(4, "big")) for number in wanted(place, head))
        return UserRecords(head=head, chunks={number: txn.get(key) for number, key in keys})


def sqlite_engine(folder: Path) -> RecordEngine:
    """The engine of the embedded store."""
    opened = StoreFolder(folder, create=True)
    opened.share(wait_s=60)
    file = SqliteFile(opened, max_bytes=LIMIT_BYTES, power=False)
    return SqliteEngine(file, SnapshotFiles(file))


def lmdb_engine(folder: Path) -> Any:
    """LMDB, with the same interface."""
    return LmdbEngine(folder)


ENGINES: dict[str, Callable[[Path], Any]] = {"sqlite": sqlite_engine, "lmdb": lmdb_engine}


def append_in_turn(engine: str, folder: Path, seed: int, batch: int, batches: int, users: int) -> dict[str, Any]:
    """Append one event to each of so many users, again and again; every batch's seconds, and the bytes written."""
    rng = np.random.default_rng(seed)
    store = HistoryStore(ENGINES[engine](folder), rules=HistoryRules(types=TYPES, ttl_s=None, max_events=65_536))
    slot = rng.bytes(8)
    process = require("psutil", extra="embedded").Process()
    before, times, written, cpu_s = process.io_counters().write_chars, [], 0, time.process_time()
    for number in range(batches):
        chosen = [b"user-%08d-4c3e-9f0a-1f2e3d4c5b6a" % one for one in rng.choice(users, batch, replace=False)]
        request_id = slot + COUNTED_REQUEST + (number + 1).to_bytes(6, "big")
        start = time.perf_counter()
        results = store.write_many([_write(store, user_id, request_id, 1, rng) for user_id in chosen])
        times.append(time.perf_counter() - start)
        written += sum(result.outcome is Outcome.WRITTEN for result in results)
    cpu_s = time.process_time() - cpu_s
    store.close()
    written_bytes = process.io_counters().write_chars - before
    return {"times_s": times, "written": written, "bytes": written_bytes, "cpu_s": cpu_s}


def _write(store: HistoryStore, user_id: bytes, request_id: bytes, count: int, rng: np.random.Generator) -> UserWrite:
    (records,) = store.engine.read_many([user_id], lambda _place, _head: range(0))
    head: Any = store.rules.usable(user_id, records.head)
    known = records.head is not None
    times = 1_700_000_000 + np.cumsum(rng.integers(0, 600, count))
    return UserWrite(
        user_id=user_id,
        request_id=request_id,
        revision=head.revision if known else bytes(16),
        event_count=head.event_count if known else 0,
        events=StoredEvents.given(rng.integers(1, 20_000, count), np.empty(0, object), times, TYPES),
    )


def fill(engine: str, folder: Path, users: int) -> StoreStat:
    """Users with events of before; how full the store is then."""
    rng = np.random.default_rng(0)
    store = HistoryStore(ENGINES[engine](folder), rules=HistoryRules(types=TYPES, ttl_s=None, max_events=65_536))
    for start in range(0, users, 256):
        ids = [b"user-%08d-4c3e-9f0a-1f2e3d4c5b6a" % one for one in range(start, min(users, start + 256))]
        store.write_many([_write(store, user_id, bytes(16), EVENTS_BEFORE, rng) for user_id in ids])
    stat = store.stat()
    store.close()
    return stat


def compare(folder: Path, *, users: int, batches: int) -> dict[str, float]:
    """Figures by engine and batch size, both processes together."""
    figures: dict[str, float] = {}
    context = multiprocessing.get_context("spawn")
    for engine in ENGINES:
        path = folder / engine
        stat = fill(engine, path, users)
        figures[f"{engine}_bytes_per_user"] = stat.used_bytes / users
        for batch in BATCHES:
            with context.Pool(PROCESSES) as pool:
                tasks = [(engine, path, seed, batch, batches, users) for seed in range(PROCESSES)]
                done = pool.starmap(append_in_turn, tasks, chunksize=1)
            times = np.concatenate([one["times_s"] for one in done])
            written = sum(one["written"] for one in done)
            name = f"{engine}_batch_{batch}"
            figures[f"{name}_appends_per_s"] = written / max(sum(one["times_s"]) for one in done)
            figures[f"{name}_p50_ms"], figures[f"{name}_p99_ms"] = np.percentile(times, [50, 99]) * 1e3
            figures[f"{name}_cpu_us_per_append"] = 1e6 * sum(one["cpu_s"] for one in done) / written
            figures[f"{name}_written_bytes_per_append"] = sum(one["bytes"] for one in done) / written
        shutil.rmtree(path)
    return figures


def table(figures: dict[str, float]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | sqlite | lmdb |", "|---|---|---|"]
    names = [name.removeprefix("sqlite_") for name in figures if name.startswith("sqlite_")]
    lines += [f"| {name} | {figures[f'sqlite_{name}']:.4g} | {figures[f'lmdb_{name}']:.4g} |" for name in names]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--batches", type=int, default=3_000, help="of every process and size")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        figures = compare(Path(name), users=options.users, batches=options.batches)
    print(table(figures))  # noqa: T201
    if options.output:
        options.output.write_text(json.dumps({key: round(value, 3) for key, value in figures.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
