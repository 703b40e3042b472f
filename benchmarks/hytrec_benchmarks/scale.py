"""What filling a shared store costs by user and event: processor time, network, memory.

    python -m hytrec_benchmarks.scale --users 1000 --log-users 20000 --output reports/scale.json

Histories are written to a Redis of its own through a proxy that counts bytes, and all states are made by the code of
`state rebuild` with the encoder of a built repository. A Parquet log, its rows in the order of time, goes through
`backfill` into a second database of the same Redis, which keeps no states: what is left is reading, grouping and
writing. Processor time and not the clock is measured, the proxy's with it, so that what else the machine does hardly
counts. `hytrec_benchmarks.scale_page` makes docs/scale.md of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hytrec.data.vocabulary import Vocabulary
from hytrec.run_folder import write_json
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context, Log, Weights, data_folder
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.redis_server import HOST, RedisServer, redis_server
from hytrec_benchmarks.fixtures.tcp_proxy import TcpProxy, tcp_proxy
from hytrec_export.bulk.backfill import backfill
from hytrec_export.bulk.encoding import UserEncoder
from hytrec_export.bulk.rebuild import rebuild_users
from hytrec_export.optional import require
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.snapshot import snapshot_bytes
from hytrec_export.state.store import Outcome, UserRead, UserWrite
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

BATCH = 64
SECONDS_BETWEEN = 3_600


@dataclass(kw_only=True)
class _Spent:
    """Of one part: core-seconds of this process and of Redis, bytes on the network, memory that Redis took more."""

    own_s: float = 0.0
    redis_s: float = 0.0
    moved: int = 0
    memory: int = 0


@dataclass(kw_only=True)
class _Watch:
    redis: RedisServer
    network: TcpProxy
    _psutil: Any = field(default_factory=lambda: require("psutil", extra="embedded"))

    @contextmanager
    def part(self) -> Iterator[_Spent]:
        """Filled at the end of the block."""
        spent = _Spent()
        before = self._read()
        yield spent
        after = self._read()
        spent.own_s, spent.redis_s = after[0] - before[0], after[1] - before[1]
        spent.moved, spent.memory = int(after[2] - before[2]), int(after[3] - before[3])

    def _read(self) -> tuple[float, float, float, float]:
        times = self._psutil.Process(self.redis.pid).cpu_times()
        memory = self.redis.client.info("memory")["used_memory"]
        return time.process_time(), times.user + times.system, self.network.moved, memory


def measure(
    repository: Path, folder: Path, *, users: int, log_users: int, events: int, seed: int = 0
) -> dict[str, Figure]:
    """Fill a store with users of so many events, make their states, and backfill a log of other such users.

    Args:
        folder: for Redis's files and the log.
        log_users: of the log.

    Raises:
        HytrecError: the repository or the store cannot be used.
    """
    settings = ServingSettings.load(repository)
    vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
    with ExitStack() as opened:
        redis = opened.enter_context(redis_server(folder))
        network = opened.enter_context(tcp_proxy(redis.port))
        url = StoreUrl.parse(f"redis://{HOST}:{network.port}/0?timeout=30")
        options = StoreOptions(url=url, snapshot_every=min(32, events))
        store = opened.enter_context(closing(open_store(options, store_model(settings))))
        encoder = opened.enter_context(UserEncoder.of_repository(repository))
        watch = _Watch(redis=redis, network=network)
        with watch.part() as filled:
            _fill(store, settings, vocabulary, users=users, events=events, seed=seed)
        with watch.part() as rebuilt:
            made = rebuild_users(store, encoder)
        log = folder / "log.parquet"
        _write_log(log, vocabulary, users=log_users, events=events, seed=seed)
        with watch.part() as backfilled:
            # The default of `--snapshot-every` over a network, as a longer history keeps a state.
            told = backfill([str(log)], repository, StoreUrl.parse(f"redis://{HOST}:{network.port}/1?timeout=30"))
    if made.rebuilt != users or told.new != log_users or told.states:
        raise ValueError(made, told)
    total, log_total = users * events, log_users * events
    return {
        "scale_users": users,
        "scale_events_per_user": events,
        "scale_snapshot_bytes": snapshot_bytes(settings.sizes),
        "fill_core_us_per_event": 1e6 * filled.own_s / total,
        "fill_redis_core_us_per_event": 1e6 * filled.redis_s / total,
        "fill_network_bytes_per_event": filled.moved / total,
        "history_redis_bytes_per_user": filled.memory / users,
        "rebuild_core_us_per_event": 1e6 * rebuilt.own_s / total,
        "rebuild_redis_core_us_per_user": 1e6 * rebuilt.redis_s / users,
        "rebuild_network_bytes_per_user": rebuilt.moved / users,
        "snapshot_redis_bytes_per_user": rebuilt.memory / users,
        "scale_log_users": log_users,
        "backfill_core_us_per_event": 1e6 * backfilled.own_s / log_total,
        "backfill_redis_core_us_per_event": 1e6 * backfilled.redis_s / log_total,
        "backfill_network_bytes_per_event": backfilled.moved / log_total,
        "backfill_events_per_s": told.events_per_second,
    }


def _user_id(number: int) -> bytes:
    return b"user-%09d" % number


def _fill(
    store: StateStore, settings: ServingSettings, vocabulary: Vocabulary, *, users: int, events: int, seed: int
) -> None:
    """One write of the whole history of each user, as a backfill makes it."""
    generator = np.random.default_rng(seed)
    types = store_model(settings).key_types
    keys = np.asarray(vocabulary.item_keys)
    for start in range(0, users, BATCH):
        ids = [_user_id(number) for number in range(start, min(users, start + BATCH))]
        request_ids = [generator.bytes(16) for _ in ids]
        reads = [UserRead(user_id=one, request_id=name) for one, name in zip(ids, request_ids, strict=True)]
        writes = []
        for user_id, request_id, user in zip(ids, request_ids, store.read_many(reads), strict=True):
            items = keys[generator.integers(0, len(keys), events)]
            times = 1_700_000_000 + np.cumsum(generator.integers(1, SECONDS_BETWEEN, events))
            writes.append(
                UserWrite(
                    user_id=user_id,
                    request_id=request_id,
                    revision=user.revision,
                    event_count=user.event_count,
                    events=StoredEvents.given(items, np.empty(0, object), times, types),
                )
            )
        for result in store.write_many(writes):
            if result.outcome is not Outcome.WRITTEN:
                raise ValueError(result)


def _write_log(path: Path, vocabulary: Vocabulary, *, users: int, events: int, seed: int) -> None:
    """Rows of all users in the order of time, as a log has them."""
    pyarrow, parquet = require("pyarrow", extra="bulk"), require("pyarrow.parquet", extra="bulk")
    generator = np.random.default_rng(seed)
    rows = users * events
    columns = {
        "user_id": generator.permutation(np.repeat(np.arange(users, dtype=np.int64), events)),
        "item_id": np.asarray(vocabulary.item_keys)[generator.integers(0, len(vocabulary.item_keys), rows)],
        "timestamp": 1_700_000_000 + np.cumsum(generator.integers(0, 3, rows)),
    }
    parquet.write_table(pyarrow.table(columns), path)


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repository", type=Path, help="built, of the default size; one is made if not given")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--log-users", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("reports/scale.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hytrec-scale-") as name:
        folder = Path(name)
        context = Context(folder=folder, data=data_folder())
        repository = options.repository or context.repository(Log.RATINGS, Weights.REMEMBERING)
        figures = measure(
            repository, folder / "redis", users=options.users, log_users=options.log_users, events=options.events
        )
    write_json(options.output, {key: round(value, 4) for key, value in figures.items()} | describe_run())


if __name__ == "__main__":
    main()
