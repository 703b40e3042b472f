from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from hytrec_benchmarks.faults.faulty_proxy import RESPONSE_MARK, FaultyProxy


@pytest.fixture
def received() -> list[bytes]:
    return []


@pytest.fixture
def target(received: list[bytes]) -> Iterator[str]:
    """A server that responds to whatever it receives with the same."""

    def echo(connection: socket.socket) -> None:
        # The proxy may cut a connection while this reads from it or answers.
        with connection, contextlib.suppress(ConnectionError):
            while data := connection.recv(100):
                received.append(data)
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    accepting = threading.Thread(target=accept)
    accepting.start()
    host, port = listener.getsockname()
    yield f"{host}:{port}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    accepting.join()


def connect(proxy: FaultyProxy) -> socket.socket:
    host, port = proxy.url.split(":")
    return socket.create_connection((host, int(port)))


def ended(connection: socket.socket) -> bool:
    """Waits for the end of a connection without any more bytes."""
    try:
        return not connection.recv(1)
    except ConnectionResetError:
        return True


def test_without_faults_bytes_are_passed_on(target: str) -> None:
    with FaultyProxy(target) as proxy, connect(proxy) as client:
        for _ in range(3):
            client.sendall(RESPONSE_MARK)
            assert client.recv(100) == RESPONSE_MARK
    assert (proxy.lost, proxy.cut) == (0, 0)


def test_a_lost_response_was_processed_and_its_connection_is_cut(target: str, received: list[bytes]) -> None:
    with FaultyProxy(target, loss=1) as proxy, connect(proxy) as client:
        client.sendall(b"headers")
        assert client.recv(100) == b"headers"
        client.sendall(RESPONSE_MARK)
        assert ended(client)
        assert (proxy.lost, proxy.cut) == (1, 0)
        assert received == [b"headers", RESPONSE_MARK]
        proxy.loss = 0
        with connect(proxy) as again:
            again.sendall(RESPONSE_MARK)
            assert again.recv(100) == RESPONSE_MARK


def test_requests_reach_the_server_while_a_response_is_withheld(target: str, received: list[bytes]) -> None:
    with FaultyProxy(target, loss=1, max_silence_s=60) as proxy, connect(proxy) as client:
        client.sendall(RESPONSE_MARK)
        while not proxy.lost:  # the test's own time limit ends it
            pass
        client.sendall(b"retry")
        while received != [RESPONSE_MARK, b"retry"]:
            pass
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(100)


async def test_connections_of_an_event_loop_are_cut_at_the_end_of_their_life(target: str) -> None:
    with FaultyProxy(target, max_life_s=0.05) as proxy:
        host, port = proxy.url.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await reader.readexactly(1_000)
        writer.close()
        assert (proxy.lost, proxy.cut) == (0, 1)


def test_the_end_of_the_proxy_is_the_end_of_its_connections(target: str) -> None:
    with FaultyProxy(target) as proxy:
        client = connect(proxy)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    with client:
        assert ended(client)
    assert not any(thread.is_alive() for thread in proxy._threads)


def test_a_server_that_is_away_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = free.getsockname()
    with FaultyProxy(f"{host}:{port}") as proxy, connect(proxy) as client:
        assert ended(client)
