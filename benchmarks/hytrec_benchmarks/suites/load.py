"""A served HyTRec under load: concurrency, half of the maximum load, memory, beside onnxruntime in this process."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hytrec.signature import RANK
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import LONG, LONG_EVENTS, Context, Log
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import use_of_server
from hytrec_benchmarks.peers.competitors import InProcessCompetitor, opened_in_process
from hytrec_benchmarks.peers.history_traffic import user_after
from hytrec_benchmarks.peers.options import CONCURRENCY, ComparisonOptions
from hytrec_benchmarks.peers.program import command_of, over_in_process
from hytrec_benchmarks.peers.python_client import ClientTraffic, ClientWindow, append_by, rank_by, take_turns
from hytrec_benchmarks.peers.servers import started
from hytrec_clients import AsyncHytrecClient
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.input_data import RequestFactory
from hytrec_export.loadtest.perf_analyzer import find_perf_analyzer
from hytrec_export.loadtest.preparation import prepare
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.loadtest.traffic import SimulatedUser
from hytrec_export.options import Execution
from hytrec_export.progress import silent
from hytrec_export.server import EmbeddedServer

EVENTS = 1_000
QUICK_EVENTS = 150
USERS = 8 * CONCURRENCY
SAMPLE_S = 0.2
TIMEOUT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is measured.

    Args:
        events: of a user before its requests.
        rounds, seconds: windows of each kind of traffic, and their length.
        alone: requests sent one at a time.
        steady: requests at half of the maximum load.
        requests: over which memory is watched.
        windows: of perf_analyzer, and of the graphs without a server beside it.
    """

    events: int = EVENTS
    rounds: int = 6
    seconds: float = 3.0
    alone: int = 201
    steady: int = 600
    requests: int = 20_000
    windows: int = 6


QUICK = Amount(events=QUICK_EVENTS, rounds=1, seconds=0.2, alone=5, steady=10, requests=50, windows=1)


def measure(context: Context) -> dict[str, Figure]:
    """Ratios of a server under load.

    Raises:
        LoadTestError: perf_analyzer is not installed, or failed.
    """
    find_perf_analyzer(None)  # fail now, not after minutes of training
    return asyncio.run(_measure(context, QUICK if context.quick else Amount()))


async def _measure(context: Context, amount: Amount) -> dict[str, Figure]:
    repository = context.repository(Log.EDITS, max_events=LONG_EVENTS)

    def loop(traffic: ClientTraffic, concurrency: int = CONCURRENCY) -> Callable[[], Awaitable[ClientWindow]]:
        return partial(traffic.closed_loop, concurrency=concurrency, seconds=amount.seconds)

    async with AsyncExitStack() as stack:
        server, client = await stack.enter_async_context(_served(context, repository, name="load"))
        factory, (users, doubles, others) = _users(context, server, repository, amount)
        in_process = stack.enter_context(opened_in_process(repository, factory, chunk=LONG_EVENTS))
        in_process.prefill(doubles)
        batches = partial(_in_batches, in_process, itertools.cycle(doubles))
        _prefill(server, factory, users)
        ranking = ClientTraffic(users=users, send=rank_by(client, factory))
        appending = ClientTraffic(users=users, send=append_by(client, factory))
        say("load: one request at a time")
        one = partial(ranking.closed_loop, concurrency=1, requests=1)
        alone = await take_turns({"served": one, "inprocess": partial(batches, size=1)}, rounds=amount.alone)
        say(f"load: concurrency {CONCURRENCY}")
        before = time.process_time()
        windows = await take_turns(
            {"append_c1": loop(appending, 1), "append_c8": loop(appending), "rank_c8": loop(ranking)},
            rounds=amount.rounds,
        )
        client_ms = 1_000 * (time.process_time() - before) / sum(len(own.latencies_ms) for own in windows.values())
        eights = partial(batches, size=CONCURRENCY, seconds=amount.seconds)
        windows |= await take_turns({"rank_c8": loop(ranking), "inprocess_b8": eights}, rounds=amount.rounds)
        say(f"load: rank requests at concurrency {CONCURRENCY} by perf_analyzer, beside onnxruntime")
        over_ceiling = await asyncio.to_thread(_over_in_process, context, server, repository, amount)
        say("load: beside a server whose steps are models of their own")
        ensemble = context.repository(Log.EDITS, max_events=LONG_EVENTS, execution=Execution.ENSEMBLE)
        async with _served(context, ensemble, name="load-ensemble") as (other, other_client):
            _prefill(other, factory, others)
            traffic = {"append": appending, "rank": ranking}
            for name, send_by in (("append", append_by), ("rank", rank_by)):
                traffic[f"{name}_ensemble"] = ClientTraffic(users=others, send=send_by(other_client, factory))
            steps = await take_turns({name: loop(own) for name, own in traffic.items()}, rounds=amount.rounds)
        maximum = windows["rank_c8"].throughput
        say("load: half of the maximum load")
        half = await ranking.open_loop(rate=maximum / 2, requests=amount.steady)
        say(f"load: memory over {amount.requests} requests")
        growth = await memory_growth(server.pid, ranking, requests=amount.requests)
    served_ms, inprocess_ms = (alone[name].percentile_ms(50) for name in ("served", "inprocess"))
    return {
        "served_minus_3x_inprocess_p50_ms": served_ms - 3 * inprocess_ms,
        "append_throughput_ratio_c8_over_c1": windows["append_c8"].throughput / windows["append_c1"].throughput,
        "rank_c8_over_inprocess_b8": over_ceiling,
        "rank_c8_python_client_over_inprocess_b8": maximum / windows["inprocess_b8"].throughput,
        "append_c8_together_over_apart": steps["append"].throughput / steps["append_ensemble"].throughput,
        "rank_c8_together_over_apart": steps["rank"].throughput / steps["rank_ensemble"].throughput,
        "p99_over_p50_half_load": half.percentile_ms(99) / half.percentile_ms(50),
        "server_memory_growth": growth,
        "load_served_p50_ms": served_ms,
        "load_inprocess_p50_ms": inprocess_ms,
        "load_half_p50_ms": half.percentile_ms(50),
        "load_half_p99_ms": half.percentile_ms(99),
        "load_client_cpu_ms_per_call": client_ms,
        **{f"load_{name}_per_s": window.throughput for name, window in windows.items()},
    }


@asynccontextmanager
async def _served(
    context: Context, repository: Path, *, name: str
) -> AsyncIterator[tuple[EmbeddedServer, AsyncHytrecClient]]:
    """A server of a repository, with a state store of its own, and a client of it."""
    with started(repository, state=context.new_folder(f"state-{name}")) as server:
        async with AsyncHytrecClient(server.grpc_url, timeout_s=TIMEOUT_S) as client:
            yield server, client


def _users(
    context: Context, server: EmbeddedServer, repository: Path, amount: Amount
) -> tuple[RequestFactory, list[list[SimulatedUser]]]:
    """Three groups of users with the same histories, and what their requests are made from."""
    options = ComparisonOptions(
        endpoint=server.grpc_url, repository=repository, events=context.log_file(Log.EDITS), seed=context.seed
    )
    with LiveServer(server.grpc_url) as live:
        prepared = prepare(live, options)
    groups = [
        long_users(prepared.log, events=amount.events, count=USERS, prefix=f"{prepared.prefix}-{group}")
        for group in range(3)
    ]
    generator = np.random.default_rng(context.seed)
    count = min(prepared.candidates, len(prepared.log.item_keys))
    candidates = {
        user.name: generator.choice(prepared.log.item_keys, count, replace=False) for group in groups for user in group
    }
    return RequestFactory(log=prepared.log, candidates=candidates), groups


def long_users(log: EventLog, *, events: int, count: int, prefix: str) -> list[SimulatedUser]:
    """Users after so many events of the log's long histories in turn, longest first, who go on to their ends."""
    longest = [int(user) for user in np.argsort(-log.lengths, kind="stable") if log.lengths[user] > LONG]
    return [
        user_after(log, user, events, name=f"{prefix}-{number}", requests=int(log.lengths[user]) - events)
        for number, user in zip(range(count), itertools.cycle(longest), strict=False)
    ]


def _prefill(server: EmbeddedServer, factory: RequestFactory, users: Sequence[SimulatedUser]) -> None:
    with LiveServer(server.grpc_url) as live:
        prefill.append_histories(live, factory, users, chunk=prefill.CHUNK_EVENTS, progress=silent)


async def _in_batches(
    in_process: InProcessCompetitor, users: Iterator[SimulatedUser], *, size: int, seconds: float = 0.0
) -> ClientWindow:
    """Rank requests in this process in batches, one at least; a request's latency is that of its batch."""
    start = time.perf_counter()
    taken_ms: list[float] = []
    while (before := time.perf_counter()) - start < seconds or not taken_ms:
        in_process.batch(RANK, [next(users).next_request() for _ in range(size)])()
        taken_ms += [1_000 * (time.perf_counter() - before)] * size
    return ClientWindow(seconds=time.perf_counter() - start, latencies_ms=taken_ms)


def _over_in_process(context: Context, server: EmbeddedServer, repository: Path, amount: Amount) -> float:
    """Rank throughput at concurrency 8 by perf_analyzer, over that of the same graphs in batches of 8."""
    command = command_of(server.grpc_url, repository, events=context.log_file(Log.EDITS), lengths=[amount.events])
    command += [f"--windows={amount.windows}", f"--window-seconds={amount.seconds}", f"--seed={context.seed}"]
    return over_in_process(command, context.new_folder("loadtest"))


async def memory_growth(pid: int, traffic: ClientTraffic, *, requests: int) -> float:
    """Anonymous memory of a server over the last fifth of so many requests, over that of the first fifth."""
    start = traffic.answered
    samples: list[tuple[int, int]] = []
    running = asyncio.create_task(traffic.closed_loop(concurrency=CONCURRENCY, requests=requests))
    while not running.done():
        samples.append((traffic.answered - start, use_of_server(pid)["anonymous_bytes"]))
        await asyncio.wait({running}, timeout=SAMPLE_S)
    await running
    samples.append((requests, use_of_server(pid)["anonymous_bytes"]))
    return fifths_ratio(samples, requests)


def fifths_ratio(samples: Sequence[tuple[int, int]], requests: int) -> float:
    """Mean over the last fifth of the requests over that of the first, of samples (requests so far, value)."""
    first = [value for made, value in samples if made <= requests / 5]
    last = [value for made, value in samples if made >= requests * 4 / 5]
    return float(np.mean(last) / np.mean(first))
