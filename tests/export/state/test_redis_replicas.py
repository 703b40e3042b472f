"""Writes that replicas confirm, and what `doctor` says of a Redis."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec_benchmarks.fixtures.redis_server import RedisServer, redis_server
from hytrec_export.errors import OptionError, StoreUnavailableError
from hytrec_export.state.opening import open_store, preflight
from hytrec_export.state.options import Durability, StoreOptions
from hytrec_export.state.redis_keys import user_keys
from hytrec_export.state.store import Outcome
from hytrec_export.state.url import StoreUrl

TOO_FEW = (
    r"^the state store redis:.* failed \(0 of 1 replicas have the write within 0.3 s\); it is on the master, and a "
    r"request may be repeated with the same request_id$"
)


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory, redis_of_worker: RedisServer) -> Iterator[RedisServer]:
    """Of the worker's server."""
    folder = tmp_path_factory.mktemp("replica")
    with redis_server(folder, replicaof=f"127.0.0.1 {redis_of_worker.port}", repl_diskless_load="swapdb") as server:
        redis_of_worker.client.config_set("repl-diskless-sync-delay", 0)
        waited = time.monotonic() + 30
        while time.monotonic() < waited:
            seen = redis_of_worker.client.info("replication").get("slave0", {})
            if isinstance(seen, dict) and seen.get("state") == "online":
                break
            time.sleep(0.02)
        yield server


@pytest.fixture
def url(redis: RedisServer, replica: RedisServer) -> str:
    return f"redis://127.0.0.1:{redis.port}/0?timeout=20&replicas=1"


def test_a_write_is_acknowledged_when_the_replica_has_it(url: str, replica: RedisServer, kit: Any) -> None:
    with kit.open(url) as store:
        for user_id in (b"u", b"u", b"v"):
            kit.fed(store, user_id, 130)
            assert replica.client.get(user_keys(user_id).head) is not None
        assert store.forget(b"u")
        assert replica.client.get(user_keys(b"u").head) is None


def test_without_the_replica_nothing_is_acknowledged(url: str, replica: RedisServer, kit: Any) -> None:
    """The first try is on the master alone; a retry knows the request, and is acknowledged by a write of its own."""
    with kit.open(url) as patient, kit.open(url.replace("timeout=20", "timeout=0.3")) as store:
        kit.fed(patient, b"u", 1)
        write = kit.write(b"u", 2, kit.user(store, b"u"))
        replica.pause()
        try:
            with pytest.raises(StoreUnavailableError, match=TOO_FEW):
                store.write_many([write])
            for _ in range(2):
                with pytest.raises(StoreUnavailableError, match=TOO_FEW):
                    kit.user(store, b"u", request_id=write.request_id)
            assert store.write_many([write])[0].outcome == Outcome.CONFLICT
            assert kit.user(store, b"u").event_count == 3  # reading acknowledges nothing
            with pytest.raises(StoreUnavailableError, match=TOO_FEW):
                store.forget(b"u")
        finally:
            replica.go_on()
        late = kit.user(patient, b"u", request_id=write.request_id)
        assert (late.replayed, late.event_count) == (True, 0)
        assert not patient.forget(b"u")
        assert replica.client.get(user_keys(b"u").head) is None


def test_more_replicas_than_there_can_be(kit: Any) -> None:
    message = r"asks for 'all' replicas; it must be a number, 0 to 100$"
    with pytest.raises(OptionError, match=message), kit.open("redis://host?replicas=all"):
        pass


def told(url: str, *, durability: Durability = Durability.PROCESS) -> list[tuple[bool, str]]:
    remarks = preflight(StoreOptions(url=StoreUrl.parse(url), durability=durability))
    return [(remark.good, remark.text) for remark in remarks]


class TestPreflight:
    def test_a_server_set_up_well(self, tmp_path: Path, redis_of_worker: Any) -> None:
        options = {"appendonly": "yes", "appendfsync": "always", "maxmemory": "1gb", "maxmemory_policy": "volatile-lru"}
        with redis_server(tmp_path, **options) as server:
            name = f"127.0.0.1:{server.port}"
            network, version, persistence, memory, replication = told(server.url, durability=Durability.POWER)
            assert network == (True, "Redis: it is on this machine, and connections stay on it")
            assert version[0]
            assert re.match(rf"{name}: (Redis 7|Valkey 8)\.", version[1])
            assert persistence == (
                True,
                f"{name}: an acknowledged write survives its death and power loss (appendfsync always)",
            )
            assert memory[0]
            assert memory[1].endswith(" MiB of 1024 MiB are used, and states are evicted first (volatile-lru)")
            assert replication[1].startswith(f"{name}: it has no replica: nothing takes over when it ends")
            server.client.config_set("appendfsync", "everysec")
            soft, hard = told(server.url)[2], told(server.url, durability=Durability.POWER)[2]
            assert (soft[0], hard[0]) == (True, False)
            assert soft[1].endswith(
                "power loss takes the last seconds (appendfsync everysec); none with appendfsync always"
            )
            assert hard[1].endswith("(appendfsync everysec); set: appendfsync always")
            server.client.config_set("maxmemory", server.client.info("memory")["used_memory"])
            assert told(server.url)[3][1].endswith("; raise maxmemory before writes are refused")

    def test_one_as_it_is_installed(self, redis: RedisServer, replica: RedisServer) -> None:
        name = f"127.0.0.1:{redis.port}"
        _, _, persistence, memory, replication = told(redis.url)
        assert persistence == (
            False,
            (
                f"{name}: it keeps no append-only file: what it acknowledged since its last dump is lost when it ends, "
                "and where it starts again before a replica takes over, on the replicas too; set: appendonly yes, "
                "appendfsync always"
            ),
        )
        assert memory == (
            False,
            (
                f"{name}: it has no maxmemory, and the machine may run out; set: maxmemory and "
                "maxmemory-policy volatile-lru"
            ),
        )
        assert replication == (
            True,
            (
                f"{name}: a failover may lose acknowledged writes of the last moments, as no replica confirms a write; "
                "none with ?replicas=1"
            ),
        )
        assert told(f"{redis.url}?replicas=1")[4] == (
            True,
            f"{name}: a failover loses no acknowledged write, as all 1 replicas confirm it",
        )
        assert told(f"{redis.url}?replicas=2")[4][1].endswith(
            "1 replicas are online, and replicas=2 are to confirm a write, so that every write gets UNAVAILABLE; "
            "start replicas, or ask for fewer"
        )
        redis.client.config_set("maxmemory", 1 << 30)
        try:
            assert told(redis.url)[3][1].endswith(
                "its maxmemory-policy is noeviction, and it must evict states alone; set: maxmemory-policy volatile-lru"
            )
        finally:
            redis.client.config_set("maxmemory", 0)

    def test_a_replica(self, replica: RedisServer, kit: Any) -> None:
        assert told(replica.url)[4] == (
            False,
            f"127.0.0.1:{replica.port}: it is a replica, which takes no writes; give the master's address",
        )
        message = (
            r"failed \(READONLY You can't write against a read only replica.*\); it is a replica; give the node that"
        )
        with pytest.raises(StoreUnavailableError, match=message):
            open_store(StoreOptions(url=StoreUrl.parse(replica.url)), kit.model())
