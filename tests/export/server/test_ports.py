import errno
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import ServerError
from hytrec_export.server import ServerOptions, ports
from hytrec_export.server.access import AccessOptions
from hytrec_export.server.ports import Ports, address_of, connect_host, free_port

Take = Callable[[ServerOptions], Ports]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def refused(code: int) -> Callable[..., int]:
    """A bind that fails."""

    def close(to_bind: socket.socket, *_: object) -> int:
        to_bind.close()
        return code

    return close


@pytest.fixture
def take() -> Iterator[Take]:
    """Ports of options, released in the end."""
    taken: list[Ports] = []

    def take(options: ServerOptions) -> Ports:
        taken.append(Ports.take(options))
        return taken[-1]

    yield take
    for chosen in taken:
        chosen.release()


@pytest.mark.parametrize("name", ["grpc", "http", "metrics"])
def test_a_taken_port_is_named_with_its_option(name: str, taken_port: int) -> None:
    open_ports: dict[str, Any] = {"grpc_port": 0, "http_port": 0, "metrics_port": 0} | {f"{name}_port": taken_port}
    message = (
        f"port {taken_port} on 127.0.0.1 is taken; stop the program that uses it, "
        f"or choose another port with --{name}-port (0 takes any free one)"
    )
    with pytest.raises(ServerError, match=f"^{re.escape(message)}$"):
        Ports.take(ServerOptions(repository=Path(), http=True, **open_ports))


def test_free_ports_differ(take: Take) -> None:
    chosen = take(ServerOptions(repository=Path(), grpc_port=0, http=True, http_port=0, metrics_port=0))
    assert chosen.http is not None
    assert len({chosen.grpc.port, chosen.http.port, chosen.metrics.port}) == 3
    assert 0 not in {chosen.grpc.port, chosen.http.port, chosen.metrics.port}


@pytest.mark.parametrize(
    ("host", "insecure", "http"),
    [("127.0.0.1", False, "127.0.0.1"), ("0.0.0.0", False, "127.0.0.1"), ("0.0.0.0", True, "0.0.0.0")],  # noqa: S104
)
def test_http_leaves_loopback_only_where_that_is_said(take: Take, host: str, insecure: bool, http: str) -> None:
    access = AccessOptions(insecure=insecure)
    options = ServerOptions(
        repository=Path(), host=host, grpc_port=0, http=True, http_port=0, metrics_port=0, access=access
    )
    chosen = take(options)
    assert chosen.http is not None
    assert (chosen.grpc.host, chosen.http.host, chosen.metrics.host) == (host, http, "127.0.0.1")


def test_a_taken_http_port_does_not_matter_without_http(take: Take, taken_port: int) -> None:
    options = ServerOptions(repository=Path(), grpc_port=0, http_port=taken_port, metrics_port=0)
    assert take(options).http is None


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_foreign_address_is_rejected(host: str) -> None:
    message = (
        f"{host} is not an IPv4 address of this machine; "
        "use --host 127.0.0.1 (this machine only) or 0.0.0.0 (every network)"
    )
    with pytest.raises(ServerError, match=f"^{re.escape(message)}$"):
        Ports.take(ServerOptions(repository=Path(), host=host))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EACCES, "port 8001 is not allowed to this user; choose one over 1023 with --grpc-port"),
        (errno.EPERM, "port 8001 on 127.0.0.1 cannot be used (EPERM); choose another with --grpc-port"),
    ],
)
def test_a_refused_port_is_named(monkeypatch: pytest.MonkeyPatch, code: int, message: str) -> None:
    monkeypatch.setattr(ports, "_bind_error", refused(code))
    with pytest.raises(ServerError, match=f"^{re.escape(message)}$"):
        Ports.take(ServerOptions(repository=Path()))


NONE_FREE = r"^no free port found on 127.0.0.1 in 200 tries; name ports with --grpc-port"


def test_chosen_ports_are_held_until_they_are_released(monkeypatch: pytest.MonkeyPatch, take: Take) -> None:
    options = ServerOptions(repository=Path(), grpc_port=0, http=True, http_port=0, metrics_port=0)
    first = take(options)
    assert first.http is not None
    chosen = {first.grpc.port, first.http.port, first.metrics.port}
    monkeypatch.setattr(ports, "_FREE_PORTS", sorted(chosen))
    with pytest.raises(ServerError, match=NONE_FREE):
        free_port("127.0.0.1", set())
    with pytest.raises(ServerError, match=NONE_FREE):
        Ports.take(ServerOptions(repository=Path(), grpc_port=0))
    first.check()  # the server may bind them
    with socket.create_server(("127.0.0.1", first.grpc.port)) as server:
        with socket.create_connection(("127.0.0.1", first.grpc.port)), server.accept()[0]:
            pass
        first.release()
        with pytest.raises(ServerError, match=f"^port {first.grpc.port} on 127.0.0.1 is taken;"):
            first.check()
    again = take(ServerOptions(repository=Path(), grpc_port=0, metrics_port=0))
    assert {again.grpc.port, again.metrics.port} <= chosen


def test_what_was_held_is_let_go_where_a_port_cannot_be_had(monkeypatch: pytest.MonkeyPatch, taken_port: int) -> None:
    free = free_port("127.0.0.1", set())
    monkeypatch.setattr(ports, "_FREE_PORTS", [free])
    with pytest.raises(ServerError, match=f"^port {taken_port} on 127.0.0.1 is taken;"):
        Ports.take(ServerOptions(repository=Path(), grpc_port=0, metrics_port=taken_port))
    assert free_port("127.0.0.1", set()) == free


def test_no_free_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_FREE_PORTS", range(8000, 8200))
    monkeypatch.setattr(ports, "_bind_error", refused(errno.EADDRINUSE))
    with pytest.raises(ServerError, match=NONE_FREE):
        free_port("127.0.0.1", set())


def test_every_network_is_reached_by_loopback() -> None:
    assert connect_host("0.0.0.0") == "127.0.0.1"  # noqa: S104 - not bound to
    assert connect_host("127.0.0.2") == "127.0.0.2"


def test_a_name_becomes_an_address() -> None:
    assert address_of("localhost") == "127.0.0.1"
    with pytest.raises(ServerError, match=r"^no.such.host.invalid is not an IPv4 address of this machine"):
        address_of("no.such.host.invalid")
