"""Several servers over one store: where a user's requests go, and what becomes of them when a server fails."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from hytrec_clients import Events, InvalidRequest, NotAuthenticated, RetryPolicy, Unavailable
from hytrec_clients.cli import app
from hytrec_clients.endpoints import FIRST_PAUSE_S, Endpoints, Route, parse_urls, rendezvous_order
from hytrec_clients.flow import RpcFailure

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
CLICK = Events.one(5, 100)
AWAY = RpcFailure("UNAVAILABLE", "failed to connect to all addresses")
POLICY = RetryPolicy(first_backoff_s=0.005, max_backoff_s=0.05, min_attempt_s=0.05, max_pause_s=0.05)


class Servers:
    """Three fakes over one store, and a client of all."""

    def __init__(self, make_fake: Callable[[], Any], make_client: Callable[..., Any]) -> None:
        self.fakes = [make_fake() for _ in range(3)]
        for fake in self.fakes[1:]:
            fake.users, fake.lock = self.fakes[0].users, self.fakes[0].lock
        self.urls = [fake.url for fake in self.fakes]
        self.make_client = make_client
        self.client = self.open()

    def open(self, **options: Any) -> Any:
        return self.make_client(self.urls, **({"retry": POLICY} | options))

    def order(self, user_id: str) -> list[Any]:
        """Fakes in the order of a user."""
        return [self.fakes[self.urls.index(url)] for url in rendezvous_order(self.urls, user_id)]

    def calls(self) -> list[int]:
        return [len(fake.calls) for fake in self.fakes]


@pytest.fixture
def servers(make_fake: Any, make_client: Any) -> Servers:
    return Servers(make_fake, make_client)


def test_a_user_goes_to_one_server_by_every_client(servers: Servers) -> None:
    ahead, behind = servers.client, servers.make_client(",".join(reversed(servers.urls)))
    for number in range(12):
        user_id = f"user-{number}"
        assert ahead.endpoint_of(user_id) == behind.endpoint_of(user_id) == servers.order(user_id)[0].url
        for client in (ahead, behind):
            client.append(user_id, CLICK)
    assert all(servers.calls())
    for number in range(12):
        first, *others = servers.order(f"user-{number}")
        mine = [fake.calls for fake in (first, *others)]
        users = [[call["user_id"][0] for _, call in calls] for calls in mine]
        assert [ids.count(b"user-%d" % number) for ids in users] == [2, 0, 0]


def test_without_a_server_only_its_own_users_move() -> None:
    urls = [f"node-{number}:8001" for number in range(5)]
    orders = {f"user-{number}": rendezvous_order(urls, f"user-{number}") for number in range(2_000)}
    shares = Counter(order[0] for order in orders.values())
    assert set(shares) == set(urls)
    assert max(shares.values()) < 1.3 * min(shares.values())
    for user_id, order in orders.items():
        assert rendezvous_order(urls[1:], user_id) == [url for url in order if url != urls[0]]
    heirs = Counter(order[1] for order in orders.values() if order[0] == urls[0])
    assert set(heirs) == set(urls[1:])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (UNAVAILABLE, "Socket closed"),
        (UNAVAILABLE, "Server is stopping, scheduler for model has stopped accepting new inference requests"),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'hytrec_append' has no available versions"),
        (grpc.StatusCode.INTERNAL, "Stub process 'hytrec_fused_0_0' is not healthy."),
    ],
)
def test_the_next_server_gets_the_same_request(servers: Servers, trouble: Any, code: Any, message: str) -> None:
    """Also where the first one had written it: it counts once."""
    first, second, third = servers.order("ada")
    servers.client.append("ada")
    first.script.append(trouble(code, message, applies=True))
    receipt = servers.client.append("ada", CLICK)
    assert (receipt.event_count, receipt.applied) == (1, False)
    assert first.request_ids()[-1] == second.request_ids()[-1]
    assert (len(first.calls), len(second.calls), len(third.calls)) == (2, 1, 0)


def test_a_dead_server_is_left_alone_and_comes_back(servers: Servers) -> None:
    first, second, _ = servers.order("ada")
    servers.client.append("ada", CLICK)
    first.stop()
    for count in range(2, 6):
        assert servers.client.append("ada", CLICK).event_count == count
    assert (len(first.calls), len(second.calls)) == (1, 4)
    first.start()
    deadline = time.monotonic() + 30
    while len(first.calls) == 1 and time.monotonic() < deadline:
        servers.client.append("ada", CLICK)
        time.sleep(0.01)
    assert servers.client.append("ada").event_count == len(first.users[b"ada"].events)
    assert len(first.calls) == 3


def test_a_server_that_is_not_ready_stays_alone(servers: Servers, trouble: Any) -> None:
    first, second, _ = servers.order("ada")
    first.script.append(trouble(UNAVAILABLE, "Socket closed"))
    first.ready = False
    for _ in range(5):
        servers.client.append("ada", CLICK)
        time.sleep(0.06)
    assert (len(first.calls), len(second.calls)) == (1, 5)
    assert 1 <= first.ready_calls <= 5
    first.ready = True
    time.sleep(0.06)
    servers.client.append("ada", CLICK)
    assert (len(first.calls), len(second.calls)) == (2, 5)


def test_one_that_stalls_costs_a_share_of_the_time_and_is_left_alone_the_second_time(
    servers: Servers, trouble: Any
) -> None:
    client = servers.open(retry=RetryPolicy(max_pause_s=60), timeout_s=3.0)
    first, second, _ = servers.order("ada")
    client.append("ada")
    first.always = trouble(None, applies=True)
    assert client.append("ada", CLICK).event_count == 1
    assert client.append("ada", CLICK).event_count == 2
    stalled = len(first.calls)
    assert client.append("ada", CLICK).event_count == 3
    assert (stalled, len(first.calls)) == (3, 3)
    assert [first.request_ids()[1:], second.request_ids()[:2]] == [second.request_ids()[:2], first.request_ids()[1:]]


def test_one_long_request_does_not_take_a_server_away(servers: Servers, trouble: Any) -> None:
    first, second, _ = servers.order("ada")
    client = servers.open(timeout_s=3.0)
    client.append("ada")
    first.script.append(trouble(None))
    client.append("ada", CLICK)
    client.append("ada", CLICK)
    assert (len(first.calls), len(second.calls)) == (3, 1)


def test_a_conflict_is_retried_at_the_same_server(servers: Servers, trouble: Any) -> None:
    first, *_ = servers.order("ada")
    text = "the user's state changed while this request ran (expected event_count 1, found 2); retry it"
    first.script += [trouble(UNAVAILABLE, text)] * 3
    assert servers.client.append("ada", CLICK).applied
    assert sorted(servers.calls()) == [0, 0, 4]


@pytest.mark.parametrize(
    "text", ["too many requests wait for hytrec_fused", "the state store x failed (Socket closed)"]
)
def test_a_busy_server_sends_one_request_elsewhere_and_stays(servers: Servers, trouble: Any, text: str) -> None:
    first, second, _ = servers.order("ada")
    first.script.append(trouble(UNAVAILABLE, text))
    assert servers.client.append("ada", CLICK).applied
    servers.client.append("ada", CLICK)
    assert (len(first.calls), len(second.calls), first.ready_calls) == (2, 1, 0)


def test_all_servers_fail_to_the_end_of_the_time(servers: Servers, trouble: Any) -> None:
    servers.client.append("ada")
    for fake in servers.fakes:
        fake.always = trouble(UNAVAILABLE, "Socket closed")
    begun = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        servers.client.append("ada", CLICK, timeout_s=0.5)
    assert time.monotonic() - begun < 10
    names = ", ".join(fake.url for fake in servers.order("ada"))
    assert str(caught.value).startswith(f"hytrec_append at {names} was unavailable within 0.5 s (attempts: ")
    assert {request_id for fake in servers.fakes for request_id in fake.request_ids()[-1:]} >= {caught.value.request_id}
    for fake in servers.fakes:
        fake.always = None
    assert servers.client.append("ada", CLICK, request_id=caught.value.request_id).event_count == 1


def test_all_that_were_away_are_tried_again_at_once(servers: Servers) -> None:
    client = servers.open(retry=RetryPolicy(first_backoff_s=0.005, max_pause_s=60))
    client.append("ada")
    for fake in servers.fakes:
        fake.stop()
    with pytest.raises(Unavailable):
        client.append("ada", CLICK, timeout_s=0.3)
    for fake in servers.fakes:
        fake.start()
    assert client.append("ada", CLICK).event_count == 1


def test_a_refusal_is_final_at_whichever_server(servers: Servers) -> None:
    first, *_ = servers.order("ada")
    first.token = "t" * 32
    with pytest.raises(NotAuthenticated, match=rf"^{re.escape(first.url)} got no token"):
        servers.client.append("ada", CLICK)
    assert servers.calls() == [0, 0, 0]


def test_two_models_at_once_are_two_servers(servers: Servers) -> None:
    """A client that goes between them reads the tensors once."""
    servers.fakes[0].fingerprint = "1" * 32
    users = [f"user-{number}" for number in range(12)]
    for _ in range(2):
        for user_id in users:
            servers.client.append(user_id)
            known = servers.order(user_id)[0].fingerprint
            assert servers.client.model_fingerprint == known
    assert sum(len(fake.metadata_calls) for fake in servers.fakes) == 1


def test_ready_is_whether_any_server_is(servers: Servers) -> None:
    assert servers.client.ready()
    for fake in servers.fakes[:2]:
        fake.ready = False
    assert servers.client.ready()
    servers.fakes[2].stop()
    assert not servers.client.ready()


def test_every_method_fails_over(servers: Servers) -> None:
    """Those that name no user too."""
    history = Events([1, 2, 3], [10, 20, 30])
    rendezvous_order(servers.urls, "")
    servers.order("")[0].stop()
    servers.order("ada")[0].stop()
    client = servers.open()
    assert client.key_types().item_key is int
    assert client.backfill("ada", history, chunk=2).event_count == 3
    assert client.replace_history("ada", history, chunk=2).event_count == 3
    assert len(client.recommend("ada").item_keys) == 3
    assert client.rank("ada", [1, 2]).receipt.event_count == 3
    assert client.forget("ada")


def test_the_command_line_takes_several(servers: Servers) -> None:
    servers.order("ada")[0].stop()
    urls = ",".join(servers.urls)
    command = ["append", "ada", "--item", "5", "--endpoint", urls, "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["event_count"] == 1
    assert CliRunner().invoke(app, ["ready", "--endpoint", urls]).exit_code == 0


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("a:1,", "url is ''; give host:port of the gRPC endpoint, such as 127.0.0.1:8001, and several with commas"),
        (["a:1", "http://b:1"], "url is 'http://b:1'; give host:port of the gRPC endpoint, such as 127.0.0.1:8001"),
        ("a.example,b:1", "url is 'a.example'; give host:port of the gRPC endpoint, such as 127.0.0.1:8001"),
        (":8001", "url is ':8001'; give host:port"),
        ("a:", "url is 'a:'; give host:port"),
        ("a:0", "url is 'a:0'; give host:port"),
        ("a:65536", "url is 'a:65536'; give host:port"),
        ("a:1,b:1,a:1", "url names a:1 twice; give every server once"),
        ([], "url is empty; give host:port of a gRPC endpoint, such as 127.0.0.1:8001"),
    ],
)
def test_what_names_no_servers(url: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(text)}"):
        parse_urls(url)


def test_what_names_servers() -> None:
    assert parse_urls("a.example:8001,[::1]:65535,unix:/run/a") == ("a.example:8001", "[::1]:65535", "unix:/run/a")


@pytest.mark.parametrize(
    ("code", "message", "away"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: Connection refused", True),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", True),
        ("UNAVAILABLE", "GOAWAY received", True),
        ("UNAVAILABLE", "Received http2 header with status: 503", True),
        ("UNAVAILABLE", "DNS resolution failed for node:8001", True),
        ("CANCELLED", "CANCELLED", True),
        ("UNAVAILABLE", "the state store is full", False),
        ("UNAVAILABLE", "the request waited for up to 2 s and its client for 1 s, so it was not begun", False),
        ("UNAVAILABLE", "This protocol is restricted, Socket closed", False),
        ("DEADLINE_EXCEEDED", "Socket closed", False),
        ("INVALID_ARGUMENT", "incomplete string data", False),
        ("INTERNAL", "onnxruntime: out of memory", False),
    ],
)
def test_which_failures_are_the_servers(code: str, message: str, away: bool) -> None:
    assert RpcFailure(code, message).server_away == away


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pause_doubles_to_its_bound_and_one_request_asks() -> None:
    clock = Clock()
    endpoints = Endpoints(urls=("a:1", "b:1"), max_pause_s=1.0, clock=clock, uniform=lambda _, high: high)
    pauses = []
    endpoints.failed("a:1", AWAY)
    for _ in range(4):
        begun = clock.now
        while endpoints.usable(["a:1"]) is None:
            clock.now += 0.125
        pauses.append(clock.now - begun)
        assert endpoints.claim_probe("a:1")
        assert not endpoints.claim_probe("a:1")
        assert endpoints.usable(["a:1", "b:1"]) == "b:1"
        endpoints.probed("a:1", ready=False)
    assert pauses == [FIRST_PAUSE_S, 0.5, 1.0, 1.0]
    clock.now += 1
    assert endpoints.claim_probe("a:1")
    endpoints.probed("a:1", ready=True)
    endpoints.failed("a:1", AWAY)  # it said so and failed: the pause goes on where it was
    clock.now += 0.5
    assert endpoints.usable(["a:1"]) is None
    endpoints.succeeded("a:1")
    endpoints.failed("a:1", AWAY)
    clock.now += FIRST_PAUSE_S
    assert endpoints.usable(["a:1"]) == "a:1"


def test_whoever_asked_and_was_never_heard_of_again_leaves_the_server_to_others() -> None:
    clock = Clock()
    endpoints = Endpoints(urls=("a:1", "b:1"), max_pause_s=1.0, clock=clock)
    endpoints.failed("a:1", AWAY)
    clock.now += FIRST_PAUSE_S
    assert endpoints.claim_probe("a:1")
    clock.now += 5
    assert endpoints.claim_probe("a:1")


def test_where_all_are_left_alone_the_first_to_come_back_is_tried() -> None:
    clock = Clock()
    endpoints = Endpoints(urls=("a:1", "b:1", "c:1"), max_pause_s=60.0, clock=clock)
    route = Route(endpoints, "ada")
    order = rendezvous_order(endpoints.urls, "ada")
    for url in (order[1], order[2], order[0]):
        clock.now += 0.001
        endpoints.uniform = lambda _, high: high
        endpoints.failed(url, AWAY)
    assert route.choose() == order[1]
