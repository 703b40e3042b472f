"""Two revisions and a model that does nothing, served side by side and measured in turns; one without a turn idles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from hytrec.data.histories import History
from hytrec_benchmarks.before_history.no_work import no_work_repository
from hytrec_benchmarks.before_history.revision import Checkout
from hytrec_benchmarks.before_history.traffic import CANDIDATES, CHUNK, START_S, Server, served
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.peers.python_client import ClientWindow, closed_loop, take_turns
from hytrec_export.runtime.model_chain import padded
from hytrec_export.settings import ServingSettings

__all__ = ["Amount", "compare"]

BEFORE, AFTER, NO_WORK = "before", "after", "no_work"
CONCURRENCY = 8
LENGTHS = (10, 10_000)
STEADY_LENGTHS = (1_000, 10_000)


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is measured.

    Args:
        rounds, seconds: windows of each kind of traffic, and their length.
        users: of every length but the longest, of which there are sixteen.
        clicks: of each user whose bytes are counted.
        calls: one at a time, of append-and-rank.
    """

    rounds: int = 6
    seconds: float = 3.0
    users: int = 256
    clicks: int = 330
    calls: int = 400

    @classmethod
    def quick(cls) -> Self:
        """To try the machinery."""
        return cls(rounds=1, seconds=0.3, users=16, clicks=5, calls=5)


async def compare(before: Checkout, made: dict[str, Path], folder: Path, amount: Amount) -> dict[str, float]:
    """Ratios of after over before (bytes: before over after), and what they are made of.

    Args:
        made: repositories by revision, of the same weights.
        folder: for states and a repository that does nothing.
    """
    idle = no_work_repository(made[AFTER], folder / "no-work")
    codes = {BEFORE: before, AFTER: Checkout(), NO_WORK: None}
    figures: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, repository in (made | {NO_WORK: idle}).items():
            say(f"serving {name}")
            servers[name] = await _filled(stack, codes[name], repository, folder / f"served-{name}", amount)
        say("bytes written")
        for name in (BEFORE, AFTER):
            figures[f"bytes_per_click_{name}"] = await _bytes_per_click(servers[name], amount)
        figures["bytes_written_ratio"] = figures[f"bytes_per_click_{BEFORE}"] / figures[f"bytes_per_click_{AFTER}"]
        say("appends")
        figures |= await _throughputs(servers, "append", partial(Server.append, length=LENGTHS[0]), amount)
        figures["append_over_noop"] = figures["append_c8_per_s_after"] / figures["append_c8_per_s_no_work"]
        del servers[NO_WORK]
        for length in LENGTHS:
            say(f"users of {length:,} events")
            figures |= await _throughputs(servers, f"rank_{length}", partial(Server.rank, length=length), amount)
            figures |= await _throughputs(servers, f"mixed_{length}", partial(Server.mixed, length=length), amount)
            figures |= await _alone(servers, length, amount)
        say("the graphs in this process")
        figures["inprocess_b8_per_s"] = await asyncio.to_thread(_in_process, made[AFTER], amount)
    return figures | _ratios(figures)


async def _filled(
    stack: AsyncExitStack, code: Checkout | None, repository: Path, folder: Path, amount: Amount
) -> Server:
    server = await stack.enter_async_context(served(code, repository, folder))
    for length in sorted({*LENGTHS, *STEADY_LENGTHS}):
        await server.fill(length, 2 * CONCURRENCY if length > CHUNK else amount.users)
    return server


def _ratios(figures: dict[str, float]) -> dict[str, float]:
    def over(name: str) -> float:
        return figures[f"{name}_{AFTER}"] / figures[f"{name}_{BEFORE}"]

    ratios = {"append_throughput_ratio_over_before": over("append_c8_per_s")}
    for length in LENGTHS:
        ratios[f"rank_c8_over_before_{length}"] = over(f"rank_{length}_c8_per_s")
        ratios[f"mixed_core_ms_over_before_{length}"] = over(f"mixed_{length}_core_ms")
        ratios[f"append_and_rank_p50_over_before_{length}"] = over(f"append_and_rank_{length}_p50_ms")
    # Core-milliseconds of a ranking on two cores, less those of its graphs.
    graphs = 2_000 / figures["inprocess_b8_per_s"]
    added = {name: 2_000 / figures[f"rank_10_c8_per_s_{name}"] - graphs for name in (BEFORE, AFTER)}
    return ratios | {"serving_overhead_ratio": added[AFTER] / added[BEFORE]}


async def _bytes_per_click(server: Server, amount: Amount) -> float:
    """Two users of every steady length, one event a call."""
    start, clicks = server.written(), 0
    for length in STEADY_LENGTHS:
        for user in range(2):
            name = f"user-{length}-{user}"
            for _ in range(amount.clicks):
                await server.append_to(name)
                clicks += 1
    return (server.written() - start) / clicks


async def _throughputs(
    servers: dict[str, Server], kind: str, send: Callable[[Server], Awaitable[None]], amount: Amount
) -> dict[str, float]:
    """Calls a second at concurrency 8 in turns, and core-milliseconds of the server a call."""
    cores = dict.fromkeys(servers, 0.0)

    async def window(name: str) -> ClientWindow:
        start = servers[name].cpu_s()
        found = await closed_loop(partial(send, servers[name]), concurrency=CONCURRENCY, seconds=amount.seconds)
        cores[name] += servers[name].cpu_s() - start
        return found

    windows = await take_turns({name: partial(window, name) for name in servers}, rounds=amount.rounds)
    figures = {f"{kind}_c8_per_s_{name}": own.throughput for name, own in windows.items()}
    return figures | {
        f"{kind}_core_ms_{name}": 1_000 * cores[name] / len(own.latencies_ms) for name, own in windows.items()
    }


async def _alone(servers: dict[str, Server], length: int, amount: Amount) -> dict[str, float]:
    """Median of an append-and-rank at a time."""
    calls = {name: partial(own.rank, length, 1) for name, own in servers.items()}
    once = {name: partial(closed_loop, call, concurrency=1, requests=1) for name, call in calls.items()}
    windows = await take_turns(once, rounds=amount.calls)
    return {f"append_and_rank_{length}_p50_ms_{name}": own.percentile_ms(50) for name, own in windows.items()}


def _in_process(repository: Path, amount: Amount) -> float:
    """Rankings a second of the graphs in batches of eight, states in memory."""
    settings = ServingSettings.load(repository)
    rng = np.random.default_rng(0)
    with onnx_chain(repository, sizes=settings.sizes) as chain:
        past = _drawn(rng, LENGTHS[0], settings.items)
        users = chain.replay([[past]] * CONCURRENCY)
        nothing = padded([_drawn(rng, 0, settings.items)] * CONCURRENCY, length=1)
        now = np.full((CONCURRENCY, 1), START_S + 10**6)
        candidates = np.stack([rng.choice(settings.items, CANDIDATES, replace=False) + 1] * CONCURRENCY)
        rates: Sequence[float] = []
        for _ in range(amount.rounds + 1):
            start, done = time.perf_counter(), 0
            while (taken := time.perf_counter() - start) < amount.seconds or not done:
                chain.rerank(chain.encode(users.state, nothing), now, candidates)
                done += CONCURRENCY
            rates = [*rates, done / taken]
    return float(np.median(rates[1:]))


def _drawn(rng: np.random.Generator, count: int, items: int) -> History:
    rows = rng.integers(1, items + 1, count)
    return History(item_rows=rows, behavior_rows=np.zeros_like(rows), times=START_S + 60 * np.arange(count))
