"""How many requests share a run of the encoder at concurrency 32, in both executions and both revisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from hytrec.signature import ENCODER, FUSED
from hytrec_benchmarks.before_history.revision import Checkout
from hytrec_benchmarks.before_history.served import Amount
from hytrec_benchmarks.before_history.traffic import Server, served
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.peers.python_client import ClientWindow, closed_loop, take_turns

__all__ = ["batches"]

CONCURRENCY = 32
LENGTH = 10
_ENCODING = {"fused": FUSED.name, "ensemble": ENCODER.name}
"""The model whose batches are those of the encoder."""


async def batches(
    before: Checkout, by_execution: Mapping[str, Mapping[str, Path]], folder: Path, amount: Amount
) -> dict[str, float]:
    """Mean batch of the encoder while users with ten events are ranked after a new one: a run of it for every call.

    Args:
        by_execution: repositories by execution and revision, of the same weights.
        folder: for states.
    """
    figures: dict[str, float] = {}
    for execution, made in by_execution.items():
        say(f"batches, {execution}")
        async with AsyncExitStack() as stack:
            servers: dict[str, Server] = {}
            for (name, repository), code in zip(made.items(), (before, Checkout()), strict=True):
                scratch = folder / f"batches-{execution}-{name}"
                servers[name] = await stack.enter_async_context(served(code, repository, scratch))
                await servers[name].fill(LENGTH, 4 * CONCURRENCY)
            means = await _means(servers, _ENCODING[execution], amount)
        figures |= {f"encoder_batch_c32_{execution}_{name}": mean for name, mean in means.items()}
        figures[f"encoder_batch_c32_{execution}_over_before"] = means["after"] / means["before"]
    return figures


async def _means(servers: Mapping[str, Server], model: str, amount: Amount) -> dict[str, float]:
    requests: Counter[str] = Counter()
    runs: Counter[str] = Counter()

    async def window(name: str) -> ClientWindow:
        server = servers[name]
        start = server.batches(model)
        found = await closed_loop(partial(server.rank, LENGTH, 1), concurrency=CONCURRENCY, seconds=amount.seconds)
        stop = server.batches(model)
        requests[name] += stop[0] - start[0]
        runs[name] += stop[1] - start[1]
        return found

    await take_turns({name: partial(window, name) for name in servers}, rounds=amount.rounds)
    return {name: requests[name] / runs[name] for name in servers}
