"""Writers race, with their caches on, while Redis is killed or the network fails: every acknowledged event once."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import IO, Any

import pytest

from hytrec.contract import StateStatus
from hytrec.run_folder import write_json
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.redis_groups import RedisGroup, moving_slot, owner_of, redis_cluster, sentinel_group
from hytrec_benchmarks.fixtures.redis_server import redis_server
from hytrec_benchmarks.fixtures.tcp_proxy import tcp_proxy
from hytrec_export.state.redis_keys import slot_of, user_keys

WRITERS, USERS = 3, 4
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
StartAppender = Callable[..., "subprocess.Popen[str]"]


class Race:
    """Writers who race while something is disturbed, and how long their requests took meanwhile."""

    def __init__(self, start: StartAppender) -> None:
        self._start = start
        self.slowest_s: list[float] = []
        """The longest request of each round."""

    def run(self, url: str, *, rounds: int, disturb: Callable[[random.Random], None]) -> Counter[bytes]:
        """Acknowledged requests of each user; so many times something is disturbed meanwhile."""
        rng = random.Random(6)
        writers = [self._start(url, "process", USERS, 0, seed) for seed in range(WRITERS)]
        first = [writer.stdout.readline() for writer in writers if writer.stdout]  # they are at it
        begun = []
        with ThreadPoolExecutor(WRITERS) as reading:  # else a pipe that is full stops its writer
            rest = [reading.submit(read_timed, writer.stdout) for writer in writers if writer.stdout]
            try:
                for _ in range(rounds):
                    begun.append(time.monotonic())
                    disturb(rng)
            finally:
                for writer in writers:
                    writer.terminate()
            timed = [one.result() for one in rest]
        for writer in writers:
            writer.wait()
        assert [writer.returncode for writer in writers] == [0] * WRITERS  # no wrong state, no wrong event
        for start, end in pairwise([*begun, time.monotonic()]):
            gaps = [
                after - before for one in timed for (before, _), (after, _) in pairwise(one) if start <= after < end
            ]
            self.slowest_s.append(max(gaps, default=0.0))
        lines = [*first, *(line for one in timed for _, line in one)]
        ids = [line.split()[2] for line in lines]
        assert len(ids) == len(set(ids)) > WRITERS
        return Counter(line.split()[0].encode() for line in lines)


def read_timed(stream: IO[str]) -> list[tuple[float, str]]:
    """Lines with the times at which they came."""
    return [(time.monotonic(), line) for line in stream]


@pytest.fixture(scope="module")
def recovery() -> Iterator[dict[str, float]]:
    """Recovery times by drill, written to the file that HYTREC_RECOVERY names, if it is set (`make recovery`)."""
    figures: dict[str, float] = {}
    yield figures
    if (path := os.environ.get("HYTREC_RECOVERY")) and figures:
        write_json(Path(path), figures | describe_run())


@pytest.fixture
def race(start_appender: StartAppender, request: pytest.FixtureRequest, recovery: dict[str, float]) -> Iterator[Race]:
    running = Race(start_appender)
    yield running
    if running.slowest_s and request.node.get_closest_marker("long"):
        name = request.node.originalname.removeprefix("test_")
        recovery[f"{name}_rounds"] = len(running.slowest_s)
        recovery[f"{name}_slowest_request_s"] = round(max(running.slowest_s), 3)
        recovery[f"{name}_median_slowest_request_s"] = round(median(running.slowest_s), 3)


def check(kit: Any, url: str, acknowledged: Counter[bytes]) -> None:
    """None is lost, and none is applied twice."""
    with kit.open(url, sizes=kit.large) as store:
        for user_id, count in acknowledged.items():
            history = store.history(user_id)
            assert history.events.times.tolist() == [*range(1, count + 1)]
            assert kit.user(store, user_id).status is StateStatus.FOUND


@pytest.mark.parametrize("rounds", [5, pytest.param(60, marks=pytest.mark.long)])
def test_redis_is_killed(tmp_path: Path, redis_of_worker: Any, kit: Any, race: Race, rounds: int) -> None:
    with redis_server(tmp_path, **DURABLE) as server:

        def kill(rng: random.Random) -> None:
            time.sleep(0.1 + rng.random() / 10)
            server.kill()
            server.start()

        url = f"{server.url}?timeout=0.5"
        check(kit, url, race.run(url, rounds=rounds, disturb=kill))


@pytest.mark.parametrize("rounds", [5, pytest.param(60, marks=pytest.mark.long)])
def test_the_network_fails(redis: Any, kit: Any, race: Race, rounds: int) -> None:
    """It is cut, is slow, or loses what Redis says."""
    with tcp_proxy(redis.port) as network:

        def fail(rng: random.Random) -> None:
            time.sleep(0.05 + rng.random() / 10)
            kind = rng.randrange(3)
            if kind == 0:
                network.cut()
            elif kind == 1:
                network.swallow_replies = True
            else:
                network.delay_s = 0.05
            time.sleep(rng.random() / 10)
            network.mend()

        url = f"redis://127.0.0.1:{network.port}/0?timeout=0.2"
        check(kit, redis.url, race.run(url, rounds=rounds, disturb=fail))


@pytest.mark.parametrize("rounds", [6, pytest.param(60, marks=pytest.mark.long)])
def test_redis_refuses_to_write(tmp_path: Path, redis_of_worker: Any, kit: Any, race: Race, rounds: int) -> None:
    """Its memory is full, it is a replica, or it has too few replicas; each in turn."""
    with redis_server(tmp_path, maxmemory="1gb", maxmemory_policy="volatile-lru", **DURABLE) as server:
        client, turns = server.client, iter(range(rounds))

        def refuse(rng: random.Random) -> None:
            time.sleep(0.1 + rng.random() / 10)
            kind = next(turns) % 3
            if kind == 0:
                client.config_set("maxmemory", 1)
            elif kind == 1:
                client.execute_command("REPLICAOF", "127.0.0.1", "1")  # where nobody is: it keeps what it has
            else:
                client.config_set("min-replicas-to-write", 1)
            time.sleep(0.1 + rng.random() / 10)
            client.config_set("maxmemory", 1 << 30)
            client.config_set("min-replicas-to-write", 0)
            client.execute_command("REPLICAOF", "NO", "ONE")

        check(kit, server.url, race.run(f"{server.url}?timeout=0.5", rounds=rounds, disturb=refuse))
        refused = client.info("errorstats")
        assert all(refused[f"errorstat_{code}"]["count"] > 0 for code in ("OOM", "READONLY", "NOREPLICAS"))


@pytest.mark.long
def test_the_master_is_killed_under_sentinel(tmp_path: Path, redis_of_worker: Any, kit: Any, race: Race) -> None:
    """With all replicas confirming; whoever was killed comes back as replica, with its file."""
    with sentinel_group(tmp_path, **DURABLE) as group:

        def kill(_: random.Random) -> None:
            time.sleep(1)
            master = min(
                group.masters + group.replicas, key=lambda one: one.client.info("replication")["role"] != "master"
            )
            master.kill()
            time.sleep(4)  # Sentinel promotes the other
            master.start()
            time.sleep(12)  # and makes this one its replica

        url = f"{group.url}?replicas=1&timeout=0.5"
        check(kit, group.url, race.run(url, rounds=3, disturb=kill))


@pytest.mark.long
def test_slots_move_between_nodes(cluster: RedisGroup, kit: Any, race: Race) -> None:
    """Those of the writers' users, again and again."""
    slots = [slot_of(user_keys(b"user-%d" % number).head) for number in range(USERS)]
    before = {slot: owner_of(cluster, slot) for slot in slots}

    def move(rng: random.Random) -> None:
        slot = rng.choice(slots)
        source = owner_of(cluster, slot)
        target = rng.choice([node for node in cluster.masters if node is not source])
        with moving_slot(slot, source, target):
            time.sleep(rng.random() / 10)
        time.sleep(rng.random() / 10)

    check(kit, cluster.url, race.run(cluster.url, rounds=60, disturb=move))
    for slot, owner in before.items():
        if (now := owner_of(cluster, slot)) is not owner:
            with moving_slot(slot, now, owner):
                pass


@pytest.mark.long
def test_a_node_of_a_cluster_is_killed(tmp_path: Path, redis_of_worker: Any, kit: Any, race: Race) -> None:
    with ExitStack() as running:
        cluster = running.enter_context(redis_cluster(tmp_path, replicas=1, appendonly="yes", appendfsync="always"))
        nodes = [*cluster.masters, *cluster.replicas]

        def kill(rng: random.Random) -> None:
            time.sleep(1)
            node = rng.choice(nodes)
            node.kill()
            time.sleep(4)
            node.start()
            time.sleep(4)

        url = f"{cluster.url}?replicas=1&timeout=0.5"
        check(kit, cluster.url, race.run(url, rounds=4, disturb=kill))
