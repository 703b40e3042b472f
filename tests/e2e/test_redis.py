"""Two real servers over one store in Redis: any of them serves any user, and every event counts once."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_benchmarks.fixtures.redis_server import redis_server
from hytrec_clients import AsyncHytrecClient, Events, HytrecClient

pytestmark = pytest.mark.e2e

PASSWORD = "hunter2"  # noqa: S105 - of this test's own server
CLICKS = 40


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, redis_of_worker: Any) -> Iterator[Any]:
    """A Redis that keeps what it acknowledged, with a password."""
    folder = tmp_path_factory.mktemp("shared")
    with redis_server(folder, requirepass=PASSWORD, appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture(scope="module")
def both(serve: Any, built: Any, shared: Any) -> Iterator[tuple[Any, Any]]:
    """Two servers, and the variables that they need."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as running:
        patch.setenv("HYTREC_STATE_PASSWORD", PASSWORD)
        one, other = (running.enter_context(serve(built.repository, path=shared.url)) for _ in range(2))
        yield one, other


def test_any_server_serves_any_user(both: tuple[Any, Any]) -> None:
    one, other = both
    with one.client() as first, other.client() as second:
        assert first.append("ada", Events([1000, 1001, 1002], [10, 20, 30])).state_status is StateStatus.NEW
        seen = second.rank("ada", [1003, 1004], Events.one(1003, 40))
        assert (seen.receipt.event_count, seen.receipt.state_status) == (4, StateStatus.FOUND)
        ranked = [client.rank("ada", [1003, 1004], now=50) for client in (first, second)]
        assert [one.receipt.event_count for one in ranked] == [4, 4]
        np.testing.assert_allclose(ranked[0].scores, ranked[1].scores, rtol=0, atol=1e-5)
        assert second.forget("ada")
        assert first.append("ada").state_status is StateStatus.NEW
        assert not first.forget("ada")


def test_the_health_check_of_kubernetes_is_answered(both: tuple[Any, Any]) -> None:
    """As the kubelet's gRPC probe asks, which knows neither TLS nor a token (deploy/helm/hytrec, `insecure`)."""
    with grpc.insecure_channel(both[0].url) as channel:  # type: ignore[no-untyped-call]
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=10) == b"\x08\x01"  # status: SERVING


def test_racing_writers_count_every_event_once(both: tuple[Any, Any]) -> None:
    with ExitStack() as opened:
        clients = [opened.enter_context(server.client()) for server in (*both, *both)]

        def click(number: int) -> int:
            for click in range(CLICKS):
                key = 1000 + (number * CLICKS + click) % 300
                if click % 2:
                    clients[number].rank("racer", [1000, 1001], Events.one(key, 100 + click))
                else:
                    clients[number].append("racer", Events.one(key, 100 + click))
            return CLICKS

        with ThreadPoolExecutor(len(clients)) as pool:
            total = sum(pool.map(click, range(len(clients))))
        assert clients[0].append("racer").event_count == total
    history = both[0].store.history(b"racer")
    keys = sorted(history.events.item_keys.tolist())
    assert keys == sorted(1000 + number % 300 for number in range(total))


def test_a_server_and_redis_itself_are_started_again(both: tuple[Any, Any], shared: Any) -> None:
    one, other = both
    history = Events(1000 + np.arange(300) % 300, 1_000_000_000 + 60 * np.arange(300))
    with one.client() as client:
        client.backfill("kept", history)
        before = client.rank("kept", [1000, 1001], now=1_100_000_000)
    shared.kill()
    shared.start()
    one.server.kill()
    with other.client() as client:
        after = client.rank("kept", [1000, 1001], now=1_100_000_000)
        assert after.receipt.event_count == 300
        np.testing.assert_allclose(after.scores, before.scores, rtol=0, atol=1e-4)
        assert client.append("kept", Events.one(1000, 1_200_000_000)).event_count == 301
    one.server.start()
    one.server.wait_ready()
    with one.client() as client:
        assert client.append("kept").event_count == 301


class Load:
    """Users who click until told to stop, by a sync client in threads and by an asyncio one; any error is raised."""

    def __init__(self, urls: list[str]) -> None:
        self.stop = threading.Event()
        self.clicks: dict[str, int] = {}
        self._urls = urls

    def in_threads(self, names: list[str]) -> None:
        with HytrecClient(self._urls, timeout_s=30) as client, ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: self._click(name, client), names))

    def in_a_loop(self, names: list[str]) -> None:
        async def run() -> None:
            async with AsyncHytrecClient(self._urls, timeout_s=30) as client:
                await asyncio.gather(*(self._click_async(name, client) for name in names))

        asyncio.run(run())

    def _click(self, name: str, client: HytrecClient) -> None:
        while not self.stop.is_set():
            count = self._next(name)
            assert client.append(name, Events.one(1000 + count % 300, count)).event_count == count

    async def _click_async(self, name: str, client: AsyncHytrecClient) -> None:
        while not self.stop.is_set():
            count = self._next(name)
            ranking = await client.rank(name, [1000, 1001], Events.one(1000 + count % 300, count))
            assert ranking.receipt.event_count == count

    def _next(self, name: str) -> int:
        self.clicks[name] = self.clicks.get(name, 0) + 1
        return self.clicks[name]

    def wait_for(self, clicks: int, running: Callable[[], bool]) -> None:
        """Until every user has clicked so often more."""
        goal = {name: count + clicks for name, count in self.clicks.items()}
        while running() and any(self.clicks[name] < count for name, count in goal.items()):
            threading.Event().wait(0.01)


def test_a_server_ends_under_load_and_its_users_go_on(both: tuple[Any, Any]) -> None:
    """Killed, then stopped in good order: no request fails, none is lost, none counts twice, and users come back."""
    one = both[0]
    load = Load([server.url for server in both])
    with HytrecClient(load._urls) as client:
        homes = {name: client.endpoint_of(name) for name in (f"roaming-{number}" for number in range(100))}
    names = [name for server in both for name in [name for name, home in homes.items() if home == server.url][:3]]
    assert len(names) == 6
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(load.in_threads, names[::2]), pool.submit(load.in_a_loop, names[1::2])]

        def wait(clicks: int) -> None:
            load.wait_for(clicks, lambda: not any(task.done() for task in running))

        try:
            while len(load.clicks) < len(names) and not any(task.done() for task in running):
                threading.Event().wait(0.01)
            for end in (one.server.kill, one.server.stop):
                wait(3)
                end()
                wait(5)
                one.server.start()
                one.server.wait_ready()
        finally:
            load.stop.set()
        for task in running:
            task.result()
    for name in names:
        assert one.store.history(name.encode()).events.times.tolist() == [*range(1, load.clicks[name] + 1)]
    with HytrecClient(load._urls) as client:
        before = one.metric("nv_inference_request_success")
        client.append(names[0])
        deadline = time.monotonic() + 30  # Triton counts after it has answered
        while one.metric("nv_inference_request_success") <= before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_password_is_nowhere_to_be_read(both: tuple[Any, Any]) -> None:
    for running in both:
        with urllib.request.urlopen(running.server.metrics_url, timeout=10) as page:  # noqa: S310  our own server
            assert PASSWORD not in page.read().decode()
        assert PASSWORD not in running.server.log_tail(100_000)
