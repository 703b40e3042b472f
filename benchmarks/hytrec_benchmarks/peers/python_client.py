"""Requests by the asyncio client, at a concurrency or at a rate: for figures that perf_analyzer does not give."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hytrec_clients import AsyncHytrecClient
from hytrec_export.loadtest.input_data import RequestFactory
from hytrec_export.loadtest.traffic import SimulatedUser, UserRequest

Send = Callable[[UserRequest], Awaitable[object]]
"""Sends one request and waits for its response."""


def append_by(client: AsyncHytrecClient, factory: RequestFactory) -> Send:
    """Appends a request's events."""
    return lambda request: client.append(request.user.name, factory.events(request.first, request.stop))


def rank_by(client: AsyncHytrecClient, factory: RequestFactory) -> Send:
    """Appends a request's events and ranks its user's candidates."""

    def rank(request: UserRequest) -> Awaitable[object]:
        events = factory.events(request.first, request.stop)
        return client.rank(request.user.name, factory.candidates[request.user.name], events)

    return rank


@dataclass(frozen=True, kw_only=True)
class ClientWindow:
    """A stretch of traffic.

    Args:
        latencies_ms: of every request, in the order of the responses.
    """

    seconds: float
    latencies_ms: Sequence[float]

    @property
    def throughput(self) -> float:
        """Requests/s."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percentile: float) -> float:
        """A percentile of the latencies."""
        return float(np.percentile(self.latencies_ms, percentile))


@dataclass(kw_only=True)
class ClientTraffic:
    """Users in turn, so that none has two requests in flight where there are more of them than client tasks.

    Attributes:
        answered: requests so far.
    """

    users: Sequence[SimulatedUser]
    send: Send
    answered: int = field(default=0, init=False)
    _turns: itertools.cycle[SimulatedUser] = field(init=False)

    def __post_init__(self) -> None:
        self._turns = itertools.cycle(self.users)

    async def closed_loop(self, *, concurrency: int, seconds: float = 0.0, requests: int = 0) -> ClientWindow:
        """See the function of this name."""
        return await closed_loop(self._send, concurrency=concurrency, seconds=seconds, requests=requests)

    async def open_loop(self, *, rate: float, requests: int) -> ClientWindow:
        """Requests at a steady rate, whatever becomes of them; a latency counts from when its request was due."""
        start = time.perf_counter()
        taken: list[float] = []
        async with asyncio.TaskGroup() as running:
            for number in range(requests):
                due = start + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                running.create_task(_timed(self._send, taken, due))
        return ClientWindow(seconds=time.perf_counter() - start, latencies_ms=taken)

    async def _send(self) -> None:
        await self.send(next(self._turns).next_request())
        self.answered += 1


async def closed_loop(
    call: Callable[[], Awaitable[object]], *, concurrency: int, seconds: float = 0.0, requests: int = 0
) -> ClientWindow:
    """So many calls in flight all the time, for at least so many seconds and requests."""
    start = time.perf_counter()
    taken: list[float] = []
    sent = itertools.count()

    async def task() -> None:
        while next(sent) < requests or time.perf_counter() - start < seconds:
            await _timed(call, taken, time.perf_counter())

    await asyncio.gather(*(task() for _ in range(concurrency)))
    return ClientWindow(seconds=time.perf_counter() - start, latencies_ms=taken)


async def _timed(call: Callable[[], Awaitable[object]], taken: list[float], due: float) -> None:
    await call()
    taken.append(1_000 * (time.perf_counter() - due))


async def take_turns(
    competitors: Mapping[str, Callable[[], Awaitable[ClientWindow]]], *, rounds: int
) -> dict[str, ClientWindow]:
    """All windows of each competitor as one; every round has one of each, in a random order."""
    generator = random.Random(0)  # noqa: S311 - an order, not a secret
    windows: dict[str, list[ClientWindow]] = {name: [] for name in competitors}
    order = list(competitors)
    for _ in range(rounds):
        for name in generator.sample(order, len(order)):
            windows[name].append(await competitors[name]())
    return {
        name: ClientWindow(
            seconds=sum(window.seconds for window in own),
            latencies_ms=[latency for window in own for latency in window.latencies_ms],
        )
        for name, own in windows.items()
    }
