"""Redis under Sentinel, and a cluster: who takes the writes changes, and nothing acknowledged is lost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hytrec_benchmarks.fixtures.redis_groups import RedisGroup, moving_slot, owner_of, redis_cluster, sentinel_group
from hytrec_export.errors import StateStoreError, StoreUnavailableError
from hytrec_export.server.ports import free_port
from hytrec_export.state.opening import preflight
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.redis_keys import slot_of, user_keys
from hytrec_export.state.store import Outcome
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

ResultT = TypeVar("ResultT")
FAILOVER_S = 60.0


def patiently(act: Callable[[], ResultT]) -> ResultT:
    """Try again while the store is unavailable, as a client does."""
    deadline = time.monotonic() + FAILOVER_S
    while True:
        try:
            return act()
        except StateStoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def retried(store: StateStore, kit: Any, user_id: bytes, count: int) -> None:
    """A client's request of so many events, repeated with its id until it is acknowledged."""
    request_id: bytes = kit.write(user_id, 1).request_id

    def attempt() -> bool:
        user = kit.user(store, user_id, request_id=request_id)
        write = kit.write(user_id, count, user, request_id=request_id)
        return user.replayed or store.write_many([write])[0].outcome is Outcome.WRITTEN

    while not patiently(attempt):
        pass


@pytest.fixture
def sentinel(tmp_path: Path, redis_of_worker: Any) -> Iterator[RedisGroup]:
    with sentinel_group(tmp_path) as group:
        yield group


def test_sentinel_s_master_is_killed(sentinel: RedisGroup, kit: Any) -> None:
    """Acknowledged by the replica, so the replica has it when it takes over."""
    with (
        kit.open(f"{sentinel.url}?replicas=1&timeout=20") as strict,
        kit.open(f"{sentinel.url}?replicas=1&timeout=0.5") as hasty,
        kit.open(f"{sentinel.url}?timeout=5") as store,
    ):
        for user_id in (b"u", b"v", b"gone"):
            retried(strict, kit, user_id, 300)
        result = kit.fed(strict, b"u", 1, snapshot=True)
        assert patiently(lambda: strict.forget(b"gone"))
        names = [remark.text for remark in preflight(StoreOptions(url=StoreUrl.parse(sentinel.url)))]
        assert any(text.startswith(f"127.0.0.1:{sentinel.masters[0].port}: ") for text in names)
        sentinel.masters[0].kill()
        with pytest.raises(StoreUnavailableError, match=r"^the state store redis\+sentinel://.* failed \("):
            kit.user(store, b"u")
        user = patiently(lambda: kit.user(store, b"u"))
        assert (user.event_count, user.revision) == (301, result.revision)
        retried(store, kit, b"u", 2)
        assert [kit.user(store, user_id).event_count for user_id in (b"u", b"v", b"gone")] == [303, 300, 0]
        with pytest.raises(StoreUnavailableError, match=r"0 of 1 replicas have the write within 0.5 s"):
            hasty.write_many([kit.write(b"new", 1)])


@pytest.mark.long
def test_a_master_that_was_killed_comes_back_as_replica(tmp_path: Path, redis_of_worker: Any, kit: Any) -> None:
    """It keeps its events in its own file: one that came back empty before it is replaced would empty its replica."""
    with (
        sentinel_group(tmp_path, appendonly="yes", appendfsync="always") as group,
        kit.open(f"{group.url}?replicas=1&timeout=0.5") as store,
    ):
        retried(store, kit, b"u", 300)
        for pause_s in (0.0, 2.0):
            group.masters[0].kill()
            time.sleep(pause_s)
            group.masters[0].start()
            retried(store, kit, b"u", 1)
        assert kit.user(store, b"u").event_count == 302


def test_a_cluster_s_users_are_spread(cluster: RedisGroup, kit: Any) -> None:
    with kit.open(cluster.url) as store:
        writes = [kit.write(b"user-%d" % number, 130) for number in range(90)]
        assert {result.outcome for result in store.write_many(writes)} == {Outcome.WRITTEN}
        assert {user.event_count for user in store.users()} == {130}
        assert store.stat().users == 90
    shares = [sum(b"}h:" in key for key in node.client.keys("*")) for node in cluster.masters]
    assert min(shares) > 10
    names = [remark.text for remark in preflight(StoreOptions(url=StoreUrl.parse(cluster.url)))]
    assert all(
        any(re.match(rf"127.0.0.1:{node.port}: (Redis|Valkey)", text) for text in names) for node in cluster.masters
    )


def test_a_slot_moves_to_another_node(cluster: RedisGroup, kit: Any) -> None:
    """While its keys move, and afterwards, users are found where they are."""
    user_id, other = b"moving", b"other"
    slot = slot_of(user_keys(user_id).head)
    source = owner_of(cluster, slot)
    target = next(node for node in cluster.masters if node is not source)
    with kit.open(cluster.url) as store, kit.open(cluster.url) as late:
        kit.fed(store, user_id, 300, snapshot=True)
        kit.fed(late, other, 1)
        with moving_slot(slot, source, target):
            assert not source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1)
            assert kit.user(store, user_id).event_count == 300  # the node says where they are now
            retried(store, kit, user_id, 1)
        assert kit.user(late, user_id).event_count == 301
        retried(late, kit, user_id, 1)
        assert kit.user(store, user_id).event_count == 302
        assert kit.user(store, other).event_count == 1
    with moving_slot(slot, target, source):
        pass


def test_no_node_of_a_cluster(kit: Any) -> None:
    port = free_port("127.0.0.1", set())
    with (
        pytest.raises(StoreUnavailableError, match=rf"^the state store redis\+cluster://127.0.0.1:{port} failed \("),
        kit.open(f"redis+cluster://127.0.0.1:{port}"),
    ):
        pass


@pytest.mark.long
def test_a_cluster_s_master_is_killed(tmp_path: Path, redis_of_worker: Any, kit: Any) -> None:
    with (
        redis_cluster(tmp_path, replicas=1) as cluster,
        kit.open(f"{cluster.url}?replicas=1&timeout=0.5") as strict,
        kit.open(f"{cluster.url}?timeout=0.5") as store,
    ):
        users = [b"user-%d" % number for number in range(30)]
        for user_id in users:
            retried(strict, kit, user_id, 130)
        cluster.masters[1].kill()
        for user_id in users:
            retried(store, kit, user_id, 1)
        assert {kit.user(store, user_id).event_count for user_id in users} == {131}
