"""A served HyTRec beside its peers: the same traffic, the same client, the same machine, taking turns."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hytrec.errors import HytrecError
from hytrec.run_folder import load_run
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import LONG_EVENTS, Context, Log
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.peers.contenders import Floor, rank_of, served, settle_in, visitors
from hytrec_benchmarks.peers.repository import PeerKind, write_peer
from hytrec_benchmarks.peers.traffic import Traffic, Visitor, Window, joined
from hytrec_clients import AsyncHytrecClient
from hytrec_export.loadtest.in_process import onnx_chain
from hytrec_export.settings import Limits

LENGTHS = (100, 1_000, 5_000, 10_000)
CONCURRENCY = 8
GUESTS = 2 * CONCURRENCY
OURS, FLOOR = "hytrec", "inprocess"
SAME_MODEL = (OURS, PeerKind.EAGER.value, PeerKind.COMPILED.value)


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is measured.

    Args:
        shrink: lengths of history are divided by it.
        rounds: windows of each contender.
        seconds: of a window at least; at least one call of every caller is made too.
    """

    shrink: int = 1
    rounds: int = 3
    seconds: float = 3.0


def measure(context: Context) -> dict[str, Figure]:
    """Throughput of each at every length of history, and ours over it."""
    amount = Amount(shrink=40, rounds=1, seconds=0.2) if context.quick else Amount()
    return asyncio.run(_measure(context, amount))


async def _measure(context: Context, amount: Amount) -> dict[str, Figure]:
    run = load_run(context.run(Log.EDITS))
    histories = context.long_histories(run.vocabulary)
    ours = context.repository(Log.EDITS, max_events=LONG_EVENTS)
    figures: dict[str, Figure] = {}
    async with AsyncExitStack() as stack:
        clients = {}
        for name, repository in {OURS: ours, **peer_repositories(context)}.items():
            say(f"peers: starting {name}")
            try:
                _, clients[name] = await stack.enter_async_context(served(context, repository, name=name))
            except HytrecError as error:
                _leave_out(name, error)
        floor = Floor(stack.enter_context(onnx_chain(ours, sizes=run.config.sizes())), run)
        for nominal in LENGTHS:
            say(f"peers: {nominal} events")
            guests = {
                name: visitors(run, histories, events=nominal // amount.shrink, count=GUESTS, seed=context.seed)
                for name in (*clients, FLOOR)
            }
            floor.settle_in(guests[FLOOR], largest_call=LONG_EVENTS)
            agreed = await _warm(clients, guests)
            figures[f"peers_score_max_abs_diff_{nominal}"] = agreed
            windows = _windows(clients, guests, floor, amount)
            rates = {name: window.rate for name, window in (await take_turns(windows, rounds=amount.rounds)).items()}
            figures |= compared(rates, nominal)
    return figures


def peer_repositories(context: Context) -> dict[str, Path]:
    """The peers' repositories, built when they are not there."""
    found = {}
    for kind in PeerKind:
        path = found[kind.value] = context.folder / f"peer-{kind.value}"
        if not path.exists():
            say(f"building {path.name}")
            write_peer(kind, context.run(Log.EDITS), path, limits=Limits(max_events=LONG_EVENTS))
    return found


async def _warm(clients: dict[str, AsyncHytrecClient], guests: dict[str, list[Visitor]]) -> float:
    """Bring every visitor's past and make some calls of each contender; largest score difference of the same model.

    A peer that fails is left out from here on.
    """
    answers = {}
    for name, client in list(clients.items()):
        try:
            await settle_in(client, guests[name])
            answers[name] = (await rank_of(client)(guests[name][0])).scores
            await Traffic(visitors=guests[name][1:], ask=rank_of(client)).closed_loop(
                concurrency=CONCURRENCY, calls=CONCURRENCY
            )
        except HytrecError as error:
            _leave_out(name, error)
            del clients[name]
    return float(np.ptp(np.stack([answers[name] for name in SAME_MODEL if name in answers]), 0).max())


def _leave_out(name: str, error: HytrecError) -> None:
    """Say why; nothing is compared without ours."""
    if name == OURS:
        raise error
    say(f"peers: {name} is left out: {error}")


def _windows(
    clients: dict[str, AsyncHytrecClient], guests: dict[str, list[Visitor]], floor: Floor, amount: Amount
) -> dict[str, Callable[[], Awaitable[Window]]]:
    def of_server(traffic: Traffic) -> Callable[[], Awaitable[Window]]:
        return lambda: traffic.closed_loop(concurrency=CONCURRENCY, seconds=amount.seconds, calls=CONCURRENCY)

    async def of_floor() -> Window:
        return floor.window(guests[FLOOR], batch=CONCURRENCY, seconds=amount.seconds)

    return {
        name: of_server(Traffic(visitors=guests[name], ask=rank_of(client))) for name, client in clients.items()
    } | {FLOOR: of_floor}


async def take_turns(contenders: dict[str, Callable[[], Awaitable[Window]]], *, rounds: int) -> dict[str, Window]:
    """All windows of each contender; every round has one of each, in an order drawn anew."""
    generator = random.Random(0)  # noqa: S311 - an order, not a secret
    windows: dict[str, list[Window]] = {name: [] for name in contenders}
    order: Sequence[str] = list(contenders)
    for _ in range(rounds):
        for name in generator.sample(order, len(order)):
            windows[name].append(await contenders[name]())
    return {name: joined(own) for name, own in windows.items()}


def compared(rates: dict[str, float], length: int) -> dict[str, Figure]:
    """Every rate, and ours over each other one."""
    figures: dict[str, Figure] = {f"throughput_{name}_{length}": rate for name, rate in rates.items()}
    for name, rate in rates.items():
        if name == FLOOR:
            figures[f"over_{name}_{length}"] = rates[OURS] / rate
        elif name != OURS:
            figures[f"throughput_over_{name}_{length}"] = rates[OURS] / rate
    return figures
