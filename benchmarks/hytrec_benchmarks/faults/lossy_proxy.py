"""A TCP proxy that loses answers: the server has processed the call, the client never hears of it."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from typing import Self

ANSWER = b"state_status"
"""A tensor's name that stands in every answer of an ensemble."""
_CHUNK = 1 << 16


class LossyProxy:
    """Passes bytes between clients and one server. Some answers are swallowed, and their connection is cut later.

    As a context manager it listens on entry.

    Args:
        target: `host:port` of the server.
        loss: share of answers that are lost; may be changed at any time.
        silence_s: longest time between a swallowed answer and the cut; 0 cuts at once.

    Attributes:
        lost: answers lost so far.
    """

    def __init__(self, target: str, *, loss: float, silence_s: float, seed: int = 0) -> None:
        host, port = target.rsplit(":", 1)
        self.lost = 0
        self._target = (host, int(port))
        self.loss = loss
        self._silence_s = silence_s
        self._random = random.Random(seed)  # noqa: S311 - which answers are lost
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where clients connect: host:port."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                for passing in (self._requests, self._answers):
                    threading.Thread(target=passing, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(_CHUNK):
                server.sendall(data)
        _cut(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(_CHUNK):
                if ANSWER in data and (silence_s := self._draw_loss()) is not None:
                    self._ended.wait(silence_s)
                    break
                client.sendall(data)
        _cut(client, server)

    def _draw_loss(self) -> float | None:
        """How long to keep silent before the cut; None where the answer passes."""
        with self._lock:
            if self._random.random() >= self.loss:
                return None
            self.lost += 1
            return self._random.uniform(0, self._silence_s)


def _cut(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
