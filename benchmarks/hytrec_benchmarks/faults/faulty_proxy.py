"""A TCP proxy that loses responses and cuts connections, whatever is in flight on them."""

from __future__ import annotations

import math
import random
import select
import socket
import threading
import time
from contextlib import suppress
from typing import Self

RESPONSE_MARK = b"state_status"
"""A tensor's name that stands in every response of an ensemble."""
_CHUNK = 1 << 16


class FaultyProxy:
    """Passes bytes between clients and one server, a thread for each connection; listens inside `with`.

    A lost response was processed by the server. Its connection takes requests for some more time, then it is cut.

    Args:
        target: `host:port` of the server.
        loss: share of responses that are lost; may be changed at any time.
        max_silence_s: longest time between a lost response and the cut; 0 cuts at once.
        max_life_s: longest life of a connection; each has a random one.

    Attributes:
        lost: responses lost so far.
        cut: connections cut so far at the end of their life.
    """

    def __init__(
        self,
        target: str,
        *,
        loss: float = 0.0,
        max_silence_s: float = 0.0,
        max_life_s: float = math.inf,
        seed: int = 0,
    ) -> None:
        host, port = target.rsplit(":", 1)
        self.loss = loss
        self.lost = 0
        self.cut = 0
        self._target = (host, int(port))
        self._max_silence_s = max_silence_s
        self._max_life_s = max_life_s
        self._random = random.Random(seed)  # noqa: S311 - which responses are lost, and lifetimes
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._end, self._ended = socket.socketpair()  # readable by all threads once its other end is closed
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        """Where clients connect: host:port."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Cut all connections."""
        self._end.close()
        for thread in self._threads:  # the first of them adds the others
            thread.join()
        self._ended.close()

    def _accept(self) -> None:
        with self._listener:
            while self._ended not in (ready := select.select([self._listener, self._ended], [], [])[0]):
                client, _ = ready[0].accept()
                self._threads.append(threading.Thread(target=self._connect, args=(client,), daemon=True))
                self._threads[-1].start()

    def _connect(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._target) as server:
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Pass bytes until either side ends the connection, or it is to be cut."""
        silent = False
        ends_at = time.monotonic() + self._draw(self._max_life_s)
        while True:
            left_s = None if math.isinf(ends_at) else max(0.0, ends_at - time.monotonic())
            ready = select.select([client, server, self._ended], [], [], left_s)[0]
            if not ready or self._ended in ready:
                with self._lock:
                    self.cut += not silent and not ready
                return
            for source in ready:
                data = source.recv(_CHUNK)
                if not data:
                    return
                if source is client:
                    server.sendall(data)
                elif not silent and RESPONSE_MARK in data and self._loses():
                    silent, ends_at = True, time.monotonic() + self._draw(self._max_silence_s)
                elif not silent:
                    client.sendall(data)

    def _loses(self) -> bool:
        with self._lock:
            lost = self._random.random() < self.loss
            self.lost += lost
            return lost

    def _draw(self, longest_s: float) -> float:
        with self._lock:
            return longest_s if math.isinf(longest_s) else self._random.uniform(0, longest_s)
