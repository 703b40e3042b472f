"""Users who come back one after the other, and calls made for them at a concurrency or at a rate."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import Int64Array
from hytrec_clients import Events

IDLE_S = 60
"""Time between a user's last event and the question."""


@dataclass(kw_only=True, eq=False)
class Visitor:
    """A user with a real history, who brings its next event on every visit.

    Args:
        name: the user's id.
        item_keys, times: the whole history; when it is used up its items come again, a second apart.
        candidate_keys: what is ranked on every visit.
        visited: events that are sent already.
    """

    name: str
    item_keys: NDArray[Any]
    times: Int64Array
    candidate_keys: NDArray[Any]
    visited: int

    @property
    def past(self) -> Events:
        """The events that are sent already."""
        return Events(self.item_keys[: self.visited], self.times[: self.visited])

    @property
    def now(self) -> int:
        """When the question about the events so far is asked, unix seconds."""
        return self.time_of(self.visited - 1) + IDLE_S

    def next_event(self) -> Events:
        """One more event."""
        place = self.visited
        self.visited += 1
        return Events([self.item_keys[place % self.times.size]], [self.time_of(place)])

    def time_of(self, place: int) -> int:
        """Unix seconds of the event at a place of the history."""
        return int(self.times[min(place, self.times.size - 1)]) + max(0, place + 1 - self.times.size)


Ask = Callable[[Visitor], Awaitable[object]]
"""Makes one call for a visitor and waits for its answer."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a stretch of traffic came to.

    Args:
        latencies_ms: of every call, in the order of the answers.
    """

    seconds: float
    latencies_ms: Sequence[float]

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_ms) / self.seconds


@dataclass(kw_only=True)
class Traffic:
    """Visitors in turn, so that nobody calls twice at once where there are more of them than calls under way.

    Attributes:
        answered: calls so far.
    """

    visitors: Sequence[Visitor]
    ask: Ask
    answered: int = field(default=0, init=False)
    _turns: itertools.cycle[Visitor] = field(init=False)

    def __post_init__(self) -> None:
        self._turns = itertools.cycle(self.visitors)

    async def closed_loop(self, *, concurrency: int, seconds: float = 0.0, calls: int = 0) -> Window:
        """So many calls under way all the time, for so many seconds and calls at least."""
        start = time.perf_counter()
        taken: list[float] = []
        made = itertools.count()

        async def caller() -> None:
            while next(made) < calls or time.perf_counter() - start < seconds:
                await self._call(taken, time.perf_counter())

        await asyncio.gather(*(caller() for _ in range(concurrency)))
        return Window(seconds=time.perf_counter() - start, latencies_ms=taken)

    async def open_loop(self, *, rate: float, calls: int) -> Window:
        """Calls at a steady rate, whatever becomes of them; a latency counts from when its call was due."""
        start = time.perf_counter()
        taken: list[float] = []
        async with asyncio.TaskGroup() as running:
            for number in range(calls):
                due = start + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                running.create_task(self._call(taken, due))
        return Window(seconds=time.perf_counter() - start, latencies_ms=taken)

    async def _call(self, taken: list[float], due: float) -> None:
        await self.ask(next(self._turns))
        taken.append(1_000 * (time.perf_counter() - due))
        self.answered += 1


def joined(windows: Sequence[Window]) -> Window:
    """Several windows as one."""
    return Window(
        seconds=sum(window.seconds for window in windows),
        latencies_ms=[latency for window in windows for latency in window.latencies_ms],
    )


def percentile_ms(window: Window, percentile: float) -> float:
    """A percentile of the latencies."""
    return float(np.percentile(window.latencies_ms, percentile))
