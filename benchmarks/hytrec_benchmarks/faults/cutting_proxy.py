"""A TCP proxy whose connections are cut after a moment, whatever is under way on them."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Self

_CHUNK = 1 << 16


class CuttingProxy:
    """Passes bytes between clients and one server; listens inside `async with`.

    Args:
        target: `host:port` of the server.
        longest_life_s: of a connection.

    Attributes:
        cut: connections cut so far.
    """

    def __init__(self, target: str, *, longest_life_s: float, seed: int = 0) -> None:
        host, port = target.rsplit(":", 1)
        self.cut = 0
        self._target = (host, int(port))
        self._longest_life_s = longest_life_s
        self._random = random.Random(seed)  # noqa: S311 - lengths of lives
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where clients connect: host:port."""
        if self._server is None:
            raise RuntimeError("the proxy does not listen; enter it first")
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for the open connections: none lives long."""
        if self._server is not None:
            self._server.close()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            writers.append(server_writer)
            passing = [
                asyncio.create_task(_pass_on(reader, server_writer)),
                asyncio.create_task(_pass_on(server_reader, writer)),
            ]
            life_s = self._random.uniform(0, self._longest_life_s)
            await asyncio.wait(passing, timeout=life_s, return_when=asyncio.FIRST_COMPLETED)
            self.cut += 1
            for direction in passing:
                direction.cancel()
            await asyncio.wait(passing)
        except OSError:
            pass  # the server is away: so is the connection
        finally:
            for own in writers:
                own.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
