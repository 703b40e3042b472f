"""Reading and grouping of large event logs: time and peak memory against plain pyarrow and numpy; 200 million events.

Each way runs in a process of its own, which has its own peak: `python -m hytrec_benchmarks.suites.reading WAY PATH`.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hytrec_benchmarks.fixtures.progress import say

if TYPE_CHECKING:  # torch, which no way of reading needs in its process
    from hytrec_benchmarks.fixtures.bounds import Figure
    from hytrec_benchmarks.fixtures.context import Context

EVENTS, MANY_EVENTS, QUICK_EVENTS = 20_000_000, 200_000_000, 200_000
PART_EVENTS = 10_000_000
ROUNDS = 3
MEMORY_LIMIT = "3GB"
"""DuckDB's, for 200 million events: their arrays take 3.2 GB beside it."""


def measure(context: Context) -> dict[str, Figure]:
    """Ratios to the plain form over 20 million events, and the peak over 200 million."""
    events, many = (QUICK_EVENTS, 2 * QUICK_EVENTS) if context.quick else (EVENTS, MANY_EVENTS)
    log = generated(context.folder / f"events_{events}", events, seed=context.seed)
    taken: dict[str, list[tuple[float, float]]] = {"plain": [], "reader": []}
    rounds = 1 if context.quick else ROUNDS
    for number in range(rounds):
        for way, figures in taken.items():
            say(f"reading {events:,} events, {way}, {number + 1} of {rounds}")
            figures.append(_run(way, log))
    (plain_s, plain_mib), (reader_s, reader_mib) = (
        tuple(statistics.median(column) for column in zip(*figures, strict=True)) for figures in taken.values()
    )
    log = generated(context.folder / f"events_{many}", many, seed=context.seed)
    say(f"reading {many:,} events")
    many_s, many_mib = _run("bounded", log)
    return {
        "read_events": events,
        "read_s": reader_s,
        "read_time_ratio": reader_s / plain_s,
        "read_peak_memory_ratio": reader_mib / plain_mib,
        "read_many_events": many,
        "read_many_s": many_s,
        "read_many_peak_gb": many_mib * 2**20 / 1e9,
    }


def generated(folder: Path, events: int, *, seed: int) -> Path:
    """A Parquet log in parts, in the order of time: 50 events a user, items by a power law, times in milliseconds."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    if folder.exists():
        return folder
    say(f"generating {events:,} events")
    staging = folder.with_name(folder.name + ".new")
    staging.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    time_ms = 1_600_000_000_000
    for part, start in enumerate(range(0, events, PART_EVENTS)):
        count = min(PART_EVENTS, events - start)
        times = time_ms + np.cumsum(generator.integers(0, 20, count))
        time_ms = int(times[-1])
        columns = {
            "user_id": generator.integers(1, max(2, events // 50), count),
            "item_id": (generator.pareto(1.1, count) * 100).astype(np.int64) % 1_000_000,
            "timestamp": times,
        }
        pq.write_table(pa.table(columns), staging / f"part-{part:05}.parquet")
    staging.rename(folder)
    return folder


def read_plain(path: Path) -> int:
    """pyarrow and numpy: columns, dictionaries, one stable sort by user and time; the number of events."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pq.read_table(path, columns=["user_id", "item_id", "timestamp"])
    times = table["timestamp"].to_numpy() // 1000
    codes = []
    for name in ("user_id", "item_id"):
        encoded = table[name].combine_chunks().dictionary_encode()
        keys = encoded.dictionary.to_numpy()
        ranks = np.empty(keys.size, np.int64)
        ranks[np.argsort(keys)] = np.arange(keys.size)
        codes.append(ranks[encoded.indices.to_numpy()])
    users, items = codes
    order = np.lexsort((times, users))
    offsets = np.concatenate(([0], np.cumsum(np.bincount(users))))
    items, times = items[order] + 1, times[order]
    if offsets[-1] != items.size or items.size != times.size:
        raise ValueError(f"{offsets[-1]} events were grouped and {items.size} read; the plain form is wrong")
    return int(items.size)


def read(path: Path) -> int:
    """The product's reader; the number of events."""
    from hytrec.data.histories import read_histories  # noqa: PLC0415

    histories, _ = read_histories(path)
    return int(histories.times.size)


def read_bounded(path: Path) -> int:
    """The same up to the sorted arrays, with a limit of memory; the number of events."""
    from hytrec.data.logs.options import LogOptions  # noqa: PLC0415
    from hytrec.data.logs.reader import read_log  # noqa: PLC0415

    return int(read_log([path], options=LogOptions(memory_limit=MEMORY_LIMIT)).times.size)


WAYS: dict[str, Callable[[Path], int]] = {"plain": read_plain, "reader": read, "bounded": read_bounded}


def _run(way: str, path: Path) -> tuple[float, float]:
    """Seconds and peak MiB of one way, in a process of its own."""
    command = [sys.executable, "-m", "hytrec_benchmarks.suites.reading", way, str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return float(found["seconds"]), float(found["peak_mib"])


def _main() -> None:
    way, path = sys.argv[1:]
    start = time.perf_counter()
    events = WAYS[way](Path(path))
    seconds = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"events": events, "seconds": seconds, "peak_mib": peak_mib}))  # noqa: T201


if __name__ == "__main__":
    _main()
