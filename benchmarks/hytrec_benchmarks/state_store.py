"""Cost of the LMDB state store at the default model size: time, bytes, and the file's growth under overwriting.

    python -m hytrec_benchmarks.state_store --folder /var/tmp/store --overwrites 100000

Prints one flat JSON object. Times are medians; `--folder` should lie on the disk that a server would use.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hytrec.config import ModelConfig
from hytrec.contract import DType
from hytrec.signature import STATE
from hytrec_export.optional import require
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import Durability, StoreOptions
from hytrec_export.state.store import NO_REVISION, Outcome, State, StateStore, Write

SIZES = ModelConfig(items=1_000).sizes()
FINGERPRINT = "0" * 32
BATCHES = (1, 16)
REPEATS = 200


class Users:
    """Users of a store, and what the store should hold of each."""

    def __init__(self, store: StateStore, count: int, seed: int) -> None:
        self.store = store
        self._rng = np.random.default_rng(seed)
        self._known: dict[bytes, tuple[bytes, int]] = {}
        self.ids = [b"user-%08d-4c3e-9f0a-1f2e3d4c5b6a" % i for i in range(count)]
        self._state = self._random_state()

    def write(self, ids: list[bytes]) -> float:
        """One more event for each; seconds taken by the store."""
        writes = [self._write(user_id) for user_id in ids]
        start = time.perf_counter()
        results = self.store.write_many(writes)
        taken = time.perf_counter() - start
        if any(result.outcome is not Outcome.WRITTEN for result in results):
            raise RuntimeError(f"not everything was written: {results}")
        return taken

    def read(self, ids: list[bytes]) -> float:
        """Seconds taken to read users."""
        start = time.perf_counter()
        self.store.read_many(ids)
        return time.perf_counter() - start

    def draw(self, batch: int) -> list[bytes]:
        """Different users."""
        return [self.ids[i] for i in self._rng.choice(len(self.ids), batch, replace=False)]

    def _write(self, user_id: bytes) -> Write:
        revision, count = self._known.get(user_id, (NO_REVISION, 0))
        request_id = os.urandom(16)
        self._known[user_id] = (request_id, count + 1)
        return Write(
            user_id=user_id,
            request_id=request_id,
            expected_revision=revision,
            expected_event_count=count,
            state=self._state | {"event_count": np.array([count + 1])},
        )

    def _random_state(self) -> State:
        return {
            tensor.name: self._rng.standard_normal(SIZES.shape(tensor)).astype(np.float32)
            if tensor.dtype is DType.FLOAT32
            else self._rng.integers(0, 1 << 40, SIZES.shape(tensor))
            for tensor in STATE
        }


def written_bytes() -> int:
    """Bytes this process has given to write calls so far; the kernel counts `write_bytes` in whole folios."""
    return int(require("psutil", extra="embedded").Process().io_counters().write_chars)


def measure_costs(folder: Path, durability: Durability, users: int) -> Iterator[tuple[str, float]]:
    """Times by batch size, bytes per user and per click."""
    store = open_store(StoreOptions(path=folder, durability=durability), sizes=SIZES, fingerprint=FINGERPRINT)
    population = Users(store, users, seed=1)
    for start in range(0, users, 16):
        population.write(population.ids[start : start + 16])
    stat = store.stat()
    yield "bytes_per_user", stat.used_bytes / stat.users
    actions: dict[str, Callable[[list[bytes]], float]] = {"read": population.read, "write": population.write}
    for batch in BATCHES:
        for name, action in actions.items():
            before = written_bytes()
            times = [action(population.draw(batch)) / batch for _ in range(REPEATS)]
            yield f"{name}_us_per_user_batch_{batch}", statistics.median(times) * 1e6
            if name == "write":
                yield f"bytes_per_click_batch_{batch}", (written_bytes() - before) / (REPEATS * batch)
    store.close()


def measure_growth(folder: Path, users: int, overwrites: int) -> Iterator[tuple[str, float]]:
    """Size of the file over its live pages, after filling and after each quarter of the overwrites."""
    for batch in BATCHES:
        store = open_store(StoreOptions(path=folder), sizes=SIZES, fingerprint=FINGERPRINT)
        population = Users(store, users, seed=2)
        for user_id in population.ids:
            population.write([user_id])
        for quarter in range(5):
            stat = store.stat()
            yield f"file_over_live_batch_{batch}_after_{quarter * overwrites // 4}", stat.file_bytes / stat.used_bytes
            for _ in range(overwrites // 4 // batch if quarter < 4 else 0):
                population.write(population.draw(batch))
        store.close()
        shutil.rmtree(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--overwrites", type=int, default=0, help="0 leaves the growth out")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for durability in Durability:
            costs = measure_costs(Path(name, durability), durability, options.users)
            figures |= {f"{durability}_{key}": value for key, value in costs}
        if options.overwrites:
            figures |= measure_growth(Path(name, "growth"), options.users, options.overwrites)
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
