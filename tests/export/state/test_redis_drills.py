"""Writers race, with their caches on, while Redis is killed or the network fails: every acknowledged event once."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import StateStatus
from hytrec_benchmarks.fixtures.redis_groups import RedisGroup, moving_slot, owner_of, redis_cluster, sentinel_group
from hytrec_benchmarks.fixtures.redis_server import redis_server
from hytrec_benchmarks.fixtures.tcp_proxy import tcp_proxy
from hytrec_export.state.redis_keys import slot_of, user_keys

WRITERS, USERS = 3, 4
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
StartAppender = Callable[..., "subprocess.Popen[str]"]


def race(start: StartAppender, url: str, *, writes: int, disturb: Callable[[random.Random], None]) -> Counter[bytes]:
    """Acknowledged requests of each user; something is disturbed again and again until the writers are through."""
    rng = random.Random(6)
    writers = [start(url, "process", USERS, writes, seed) for seed in range(WRITERS)]
    first = [writer.stdout.readline() for writer in writers if writer.stdout]  # they are at it
    while any(writer.poll() is None for writer in writers):
        disturb(rng)
    lines = "".join(first) + "".join(writer.communicate()[0] for writer in writers)
    assert [writer.returncode for writer in writers] == [0] * WRITERS  # no wrong state, no wrong event
    ids = [line.split()[2] for line in lines.splitlines()]
    assert len(ids) == len(set(ids)) == WRITERS * writes
    return Counter(line.split()[0].encode() for line in lines.splitlines())


def check(kit: Any, url: str, acknowledged: Counter[bytes]) -> None:
    """None is lost, and none is applied twice."""
    with kit.open(url, sizes=kit.large) as store:
        for user_id, count in acknowledged.items():
            history = store.history(user_id)
            assert history.events.times.tolist() == [*range(1, count + 1)]
            assert kit.user(store, user_id).status is StateStatus.FOUND


@pytest.mark.parametrize("writes", [40, pytest.param(400, marks=pytest.mark.long)])
def test_redis_is_killed(
    tmp_path: Path, redis_of_worker: Any, kit: Any, start_appender: StartAppender, writes: int
) -> None:
    kills = 0
    with redis_server(tmp_path, **DURABLE) as server:

        def kill(rng: random.Random) -> None:
            nonlocal kills
            time.sleep(0.1 + rng.random() / 10)
            server.kill()
            server.start()
            kills += 1

        url = f"{server.url}?timeout=0.5"
        check(kit, url, race(start_appender, url, writes=writes, disturb=kill))
    assert kills > 1


@pytest.mark.parametrize("writes", [40, pytest.param(400, marks=pytest.mark.long)])
def test_the_network_fails(redis: Any, kit: Any, start_appender: StartAppender, writes: int) -> None:
    """It is cut, is slow, or loses what Redis says."""
    failures = 0
    with tcp_proxy(redis.port) as network:

        def fail(rng: random.Random) -> None:
            nonlocal failures
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
            failures += 1

        url = f"redis://127.0.0.1:{network.port}/0?timeout=0.2"
        check(kit, redis.url, race(start_appender, url, writes=writes, disturb=fail))
    assert failures > 2


@pytest.mark.long
def test_the_master_is_killed_under_sentinel(
    tmp_path: Path, redis_of_worker: Any, kit: Any, start_appender: StartAppender
) -> None:
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
        check(kit, group.url, race(start_appender, url, writes=300, disturb=kill))


@pytest.mark.long
def test_slots_move_between_nodes(cluster: RedisGroup, kit: Any, start_appender: StartAppender) -> None:
    """Those of the writers' users, again and again."""
    slots = [slot_of(user_keys(b"user-%d" % number).head) for number in range(USERS)]
    before = {slot: owner_of(cluster, slot) for slot in slots}
    moves = 0

    def move(rng: random.Random) -> None:
        nonlocal moves
        slot = rng.choice(slots)
        source = owner_of(cluster, slot)
        target = rng.choice([node for node in cluster.masters if node is not source])
        with moving_slot(slot, source, target):
            time.sleep(rng.random() / 10)
        time.sleep(rng.random() / 10)
        moves += 1

    check(kit, cluster.url, race(start_appender, cluster.url, writes=400, disturb=move))
    for slot, owner in before.items():
        if (now := owner_of(cluster, slot)) is not owner:
            with moving_slot(slot, now, owner):
                pass
    assert moves > 1


@pytest.mark.long
def test_a_node_of_a_cluster_is_killed(
    tmp_path: Path, redis_of_worker: Any, kit: Any, start_appender: StartAppender
) -> None:
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
        check(kit, cluster.url, race(start_appender, url, writes=300, disturb=kill))
