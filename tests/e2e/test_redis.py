"""Two real servers over one store in Redis: any of them serves any user, and every event counts once."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_benchmarks.fixtures.redis_server import redis_server
from hytrec_clients import Events

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


def test_the_password_is_nowhere_to_be_read(both: tuple[Any, Any]) -> None:
    for running in both:
        with urllib.request.urlopen(running.server.metrics_url, timeout=10) as page:  # noqa: S310  our own server
            assert PASSWORD not in page.read().decode()
        assert PASSWORD not in running.server.log_tail(100_000)
