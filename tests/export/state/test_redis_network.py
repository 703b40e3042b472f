"""The store in Redis on a bad network: bounded waits, errors that can be retried, and every event once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest

from hytrec.contract import DType, StateStatus
from hytrec_benchmarks.fixtures.redis_server import redis_server
from hytrec_benchmarks.fixtures.tcp_proxy import TcpProxy, tcp_proxy
from hytrec_export.errors import StoreUnavailableError
from hytrec_export.server.certificates import write_certificates
from hytrec_export.server.ports import free_port
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.redis_nodes import Command
from hytrec_export.state.redis_scripts import APPEND, BEGIN, FORGET, SHA1
from hytrec_export.state.snapshot import SNAPSHOT, snapshot_bytes
from hytrec_export.state.store import NewSnapshot, Outcome
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

FAILED = (
    r"^the state store redis://127.0.0.1:\d+/0\?timeout=0.2 failed \(.*\); check that Redis runs there; a request may "
)


@pytest.fixture
def network(redis: Any) -> Iterator[TcpProxy]:
    with tcp_proxy(redis.port) as proxy:
        yield proxy


@pytest.fixture
def store(network: TcpProxy, kit: Any) -> Iterator[StateStore]:
    """Reached through the proxy, with a short timeout."""
    with kit.open(f"redis://127.0.0.1:{network.port}/0?timeout=0.2") as opened:
        yield opened


@pytest.fixture
def near(redis: Any, kit: Any) -> Iterator[StateStore]:
    """The same store, without the proxy."""
    with kit.open(redis.url) as opened:
        yield opened


def deaf_to(store: StateStore, network: TcpProxy, *texts: str, mend_s: float | None = None) -> None:
    """The responses to the next run of a script are lost, until the network is mended."""
    engine: Any = store.histories.engine
    nodes, run = engine.nodes, engine.nodes.run

    def deaf(commands: Sequence[Command], **options: Any) -> Any:
        if any(SHA1[text] in command.arguments for command in commands for text in texts):
            nodes.run = run
            network.swallow_replies = True
            if mend_s is not None:
                Timer(mend_s, network.mend).start()
        return run(commands, **options)

    nodes.run = deaf


def test_a_write_whose_response_is_lost_is_written_once(network: TcpProxy, store: StateStore, kit: Any) -> None:
    """The store asks again by itself, and finds its own head."""
    kit.fed(store, b"u", 1)
    for user_id, text in ((b"u", APPEND), (b"new", BEGIN)):
        write = kit.write(user_id, 2, kit.user(store, user_id))
        deaf_to(store, network, text, mend_s=0.1)
        (result,) = store.write_many([write])
        assert not network.swallow_replies
        assert (result.outcome, result.revision) == (Outcome.WRITTEN, kit.user(store, user_id).revision)
    assert [kit.user(store, user_id).event_count for user_id in (b"u", b"new")] == [3, 2]


def test_another_writer_after_a_lost_response(network: TcpProxy, store: StateStore, near: StateStore, kit: Any) -> None:
    """Neither head is there when the store asks again: the request is known, so it is not applied twice."""
    kit.fed(store, b"u", 1)
    write = kit.write(b"u", 2, kit.user(store, b"u"))
    deaf_to(store, network, APPEND)

    def go_on() -> None:
        kit.fed(near, b"u", 4)
        network.mend()

    Timer(0.1, go_on).start()
    (result,) = store.write_many([write])
    assert (result.outcome, result.event_count) == (Outcome.CONFLICT, 7)
    assert kit.user(store, b"u", request_id=write.request_id).replayed


def test_one_that_stays_unanswered_can_be_repeated(network: TcpProxy, store: StateStore, kit: Any) -> None:
    write = kit.write(b"u", 2)
    deaf_to(store, network, BEGIN)
    with pytest.raises(StoreUnavailableError, match=FAILED):
        store.write_many([write])
    network.mend()
    user = kit.user(store, b"u", request_id=write.request_id)
    assert (user.replayed, user.event_count) == (True, 2)
    assert store.write_many([write])[0].outcome == Outcome.CONFLICT


def test_a_forget_whose_response_is_lost(network: TcpProxy, store: StateStore, kit: Any) -> None:
    write = kit.write(b"u", 2)
    store.write_many([write])
    deaf_to(store, network, FORGET, mend_s=0.1)
    assert store.forget(b"u")
    assert not network.swallow_replies
    assert kit.user(store, b"u", request_id=write.request_id).replayed


def test_a_cut_network_is_told_at_once_and_recovers(
    network: TcpProxy, store: StateStore, near: StateStore, kit: Any
) -> None:
    kit.fed(store, b"u", 1)
    network.cut()
    for attempt in (
        lambda: kit.user(store, b"u"),
        lambda: store.write_many([kit.write(b"new", 1)]),
        lambda: store.forget(b"u"),
        store.stat,
    ):
        with pytest.raises(StoreUnavailableError, match=FAILED):
            attempt()
    assert kit.user(near, b"u").status is StateStatus.FOUND
    network.mend()
    assert kit.fed(store, b"u", 1).event_count == 2


def test_a_node_that_hangs_is_waited_for_a_bounded_time(redis: Any, store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 1)
    redis.pause()
    try:
        with pytest.raises(StoreUnavailableError, match=FAILED):
            kit.user(store, b"u")
    finally:
        redis.go_on()
    assert kit.user(store, b"u").event_count == 1


def test_a_node_that_becomes_a_replica(redis: Any, store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 1)
    seen = kit.user(store, b"u")
    redis.client.config_set("replica-serve-stale-data", "yes")
    redis.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(StoreUnavailableError, match=r"\(READONLY .*\); it is a replica; give the node that takes"):
            store.write_many([kit.write(b"u", 1, seen)])
    finally:
        redis.client.execute_command("REPLICAOF", "NO", "ONE")
    assert kit.fed(store, b"u", 1).event_count == 2


def test_a_state_comes_over_the_network_once(network: TcpProxy, near: StateStore, kit: Any) -> None:
    """It is used again only where the history is still the one that it is of."""
    options = StoreOptions(url=StoreUrl.parse(f"redis://127.0.0.1:{network.port}/0"), snapshot_every=64)
    model = kit.model(sizes=kit.large)
    size = snapshot_bytes(kit.large)
    writer = open_store(options, model)
    result = kit.fed(writer, b"u", 300)
    state = {
        tensor.name: np.zeros(kit.large.shape(tensor), np.float32 if tensor.dtype is DType.FLOAT32 else np.int64)
        for tensor in SNAPSHOT
    }
    kept = NewSnapshot(user_id=b"u", revision=result.revision, event_count=result.event_count, state=state)
    assert writer.write_snapshots([kept]) == 0
    writer.close()
    store = open_store(options, model, recent=8)
    moved = []
    for _ in range(3):
        before = network.moved
        assert kit.user(store, b"u").base == 300
        moved.append(network.moved - before)
    assert moved[0] > size > 10 * moved[1]
    assert moved[1] == moved[2]
    kit.fed(near, b"u", 5)
    before = network.moved
    assert (kit.user(store, b"u").base, network.moved - before < size) == (300, True)
    seen = kit.user(near, b"u")
    near.write_many([kit.write(b"u", 305, seen, replace=True)])
    user = kit.user(store, b"u")
    assert (user.event_count, user.base, user.state) == (305, 0, None)
    store.close()


def test_a_server_started_again_knows_no_script_and_learns_them(tmp_path: Path, redis_of_worker: Any, kit: Any) -> None:
    with redis_server(tmp_path, appendonly="yes", appendfsync="always") as server, kit.open(server.url) as store:
        kit.fed(store, b"u", 300, snapshot=True)
        server.kill()
        server.start()
        assert kit.user(store, b"u").event_count == 300
        assert kit.fed(store, b"u", 100, snapshot=True).event_count == 400
        assert kit.user(store, b"u").base == 400
        server.client.script_flush()
        assert store.forget(b"u")


def test_tls_takes_the_authority_and_a_certificate(tmp_path: Path, redis_of_worker: Any, kit: Any) -> None:
    files = write_certificates(tmp_path / "certificates", hosts=["127.0.0.1"])
    given = {"tls_cert_file": files.server_cert, "tls_key_file": files.server_key, "tls_ca_cert_file": files.ca}
    options = {name: str(path) for name, path in given.items()}
    with redis_server(tmp_path / "redis", **options) as server:
        tls_port = free_port("127.0.0.1", {server.port})
        server.client.config_set("tls-port", tls_port)
        url = f"rediss://127.0.0.1:{tls_port}/0"
        own = f"cert={files.client_cert}&key={files.client_key}"
        with kit.open(f"{url}?ca={files.ca}&{own}") as store:
            assert kit.fed(store, b"u", 300).event_count == 300
        with pytest.raises(StoreUnavailableError, match=r"certificate verify failed"), kit.open(f"{url}?{own}"):
            pass
        with pytest.raises(StoreUnavailableError), kit.open(f"{url}?ca={files.ca}"):
            pass
