"""A served HyTRec under load: concurrency, half of the greatest load, memory, beside onnxruntime in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from hytrec.run_folder import load_run
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import LONG_EVENTS, Context, Log
from hytrec_benchmarks.fixtures.loadtest_cli import command_of, over_in_process
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.resources import use_of_server
from hytrec_benchmarks.peers.contenders import Floor, append_of, rank_of, served, settle_in, visitors
from hytrec_benchmarks.peers.measure import CONCURRENCY, take_turns
from hytrec_benchmarks.peers.traffic import Ask, Traffic, Visitor, Window, percentile_ms
from hytrec_clients import AsyncHytrecClient
from hytrec_export.loadtest.in_process import onnx_chain
from hytrec_export.loadtest.perf_analyzer import find_perf_analyzer
from hytrec_export.options import Execution

EVENTS = 1_000
GUESTS = 8 * CONCURRENCY
LOOK_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is measured.

    Args:
        rounds, seconds: windows of each kind of traffic, and their length.
        alone: calls made one at a time.
        steady: calls at half of the greatest load.
        requests: calls over which memory is watched.
        windows: of perf_analyzer, and of the graphs without a server beside it.
    """

    rounds: int = 6
    seconds: float = 3.0
    alone: int = 201
    steady: int = 600
    requests: int = 20_000
    windows: int = 6


def measure(context: Context) -> dict[str, Figure]:
    """Ratios of what a server does under load.

    Raises:
        LoadTestError: perf_analyzer is not installed, or failed.
    """
    find_perf_analyzer(None)  # told now, not after minutes
    amount = Amount(rounds=1, seconds=0.2, alone=5, steady=10, requests=50, windows=1) if context.quick else Amount()
    return asyncio.run(_measure(context, amount))


async def _measure(context: Context, amount: Amount) -> dict[str, Figure]:
    run = load_run(context.run(Log.EDITS))
    repository = context.repository(Log.EDITS, max_events=LONG_EVENTS)
    events = min(EVENTS, len(context.long_histories(run.vocabulary)[0]) // 2)
    groups = [
        visitors(run, context.long_histories(run.vocabulary), events=events, count=GUESTS, seed=context.seed)
        for _ in range(2)
    ]
    async with AsyncExitStack() as stack:
        floor = Floor(stack.enter_context(onnx_chain(repository, sizes=run.config.sizes())), run)
        floor.settle_in(groups[1], largest_call=LONG_EVENTS)
        server, client = await stack.enter_async_context(served(context, repository, name="load"))
        await settle_in(client, groups[0])
        ranking = Traffic(visitors=groups[0], ask=rank_of(client))
        appending = Traffic(visitors=groups[0], ask=append_of(client))
        say("load: one call at a time")
        alone_ms = await _one_at_a_time(rank_of(client), floor, groups, calls=amount.alone)
        say(f"load: {CONCURRENCY} calls at a time")
        before = time.process_time()
        windows = await take_turns(
            {
                "append_c1": lambda: appending.closed_loop(concurrency=1, seconds=amount.seconds),
                "append_c8": lambda: appending.closed_loop(concurrency=CONCURRENCY, seconds=amount.seconds),
                "rank_c8": lambda: ranking.closed_loop(concurrency=CONCURRENCY, seconds=amount.seconds),
            },
            rounds=amount.rounds,
        )
        client_ms = 1_000 * (time.process_time() - before) / sum(len(own.latencies_ms) for own in windows.values())
        windows |= await _beside_floor(ranking, floor, groups[1], amount)
        say(f"load: {CONCURRENCY} rankings at a time by perf_analyzer, beside onnxruntime")
        command = command_of(
            server.grpc_url,
            repository,
            events=context.log_file(Log.EDITS),
            concurrency=CONCURRENCY,
            lengths=[events],
        )
        command += [f"--windows={amount.windows}", f"--window-seconds={amount.seconds}", f"--seed={context.seed}"]
        over_floor = await asyncio.to_thread(over_in_process, command, context.new_folder("loadtest"))
        say("load: beside a server whose steps are models of their own")
        apart = context.repository(Log.EDITS, max_events=LONG_EVENTS, execution=Execution.ENSEMBLE)
        async with served(context, apart, name="load-apart") as (_, other):
            await settle_in(other, groups[1])
            steps = await _beside_steps_apart(client, other, groups, amount)
        greatest = windows["rank_c8"].rate
        say("load: half of the greatest load")
        half = await ranking.open_loop(rate=greatest / 2, calls=amount.steady)
        say(f"load: memory over {amount.requests} calls")
        growth = await memory_growth(server.pid, ranking, calls=amount.requests)
    rates = {f"load_{name}_per_s": window.rate for name, window in windows.items()}
    return {
        "served_minus_3x_inprocess_p50_ms": alone_ms["served"] - 3 * alone_ms["inprocess"],
        "append_throughput_ratio_c8_over_c1": windows["append_c8"].rate / windows["append_c1"].rate,
        "rank_c8_over_inprocess_b8": over_floor,
        "rank_c8_python_client_over_inprocess_b8": greatest / windows["inprocess_b8"].rate,
        "append_c8_together_over_apart": steps["append"].rate / steps["append_apart"].rate,
        "rank_c8_together_over_apart": steps["rank"].rate / steps["rank_apart"].rate,
        "p99_over_p50_half_load": percentile_ms(half, 99) / percentile_ms(half, 50),
        "server_memory_growth": growth,
        "load_served_p50_ms": alone_ms["served"],
        "load_inprocess_p50_ms": alone_ms["inprocess"],
        "load_half_p50_ms": percentile_ms(half, 50),
        "load_half_p99_ms": percentile_ms(half, 99),
        "load_client_cpu_ms_per_call": client_ms,
        **rates,
    }


async def _one_at_a_time(
    ask: Ask, floor: Floor, groups: Sequence[Sequence[Visitor]], *, calls: int
) -> dict[str, float]:
    """p50 of a served ranking and of one in this process, which take turns."""
    taken_ms: dict[str, list[float]] = {"served": [], "inprocess": []}
    for number in range(calls):
        guest, double = (group[number % len(group)] for group in groups)
        start = time.perf_counter()
        await ask(guest)
        between = time.perf_counter()
        floor.rank([double])
        taken_ms["served"].append(1_000 * (between - start))
        taken_ms["inprocess"].append(1_000 * (time.perf_counter() - between))
    return {name: float(np.median(values)) for name, values in taken_ms.items()}


async def _beside_floor(ranking: Traffic, floor: Floor, guests: Sequence[Visitor], amount: Amount) -> dict[str, Window]:
    """Rankings at concurrency 8, and in batches of 8 in this process, which take turns."""

    async def in_process() -> Window:
        return floor.window(guests, batch=CONCURRENCY, seconds=amount.seconds)

    return await take_turns(
        {
            "rank_c8": lambda: ranking.closed_loop(concurrency=CONCURRENCY, seconds=amount.seconds),
            "inprocess_b8": in_process,
        },
        rounds=amount.rounds,
    )


async def _beside_steps_apart(
    together: AsyncHytrecClient, apart: AsyncHytrecClient, groups: Sequence[Sequence[Visitor]], amount: Amount
) -> dict[str, Window]:
    """Appends and rankings at concurrency 8 on two servers, which take turns."""
    traffic = {
        f"{kind}{name}": Traffic(visitors=group, ask=ask_of(client))
        for kind, ask_of in (("append", append_of), ("rank", rank_of))
        for name, client, group in (("", together, groups[0]), ("_apart", apart, groups[1]))
    }
    return await take_turns(
        {
            name: partial(own.closed_loop, concurrency=CONCURRENCY, seconds=amount.seconds)
            for name, own in traffic.items()
        },
        rounds=amount.rounds,
    )


async def memory_growth(pid: int, traffic: Traffic, *, calls: int) -> float:
    """Anonymous memory of a server's processes over the last fifth of so many calls, over that of the first fifth."""
    start = traffic.answered
    samples: list[tuple[int, int]] = []
    running = asyncio.create_task(traffic.closed_loop(concurrency=CONCURRENCY, calls=calls))
    while not running.done():
        samples.append((traffic.answered - start, use_of_server(pid).anonymous_bytes))
        await asyncio.wait({running}, timeout=LOOK_S)
    await running
    samples.append((calls, use_of_server(pid).anonymous_bytes))
    return fifths_ratio(samples, calls)


def fifths_ratio(samples: Sequence[tuple[int, int]], calls: int) -> float:
    """Mean over the last fifth of the calls over that of the first, of samples (calls so far, value)."""
    first = [value for made, value in samples if made <= calls / 5]
    last = [value for made, value in samples if made >= calls * 4 / 5]
    return float(np.mean(last) / np.mean(first))
