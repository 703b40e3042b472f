"""Resource usage of the server during a soak, and whether it grows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_benchmarks.fixtures.serving import use_of_server
from hytrec_export.state.users import StateStore

INTERVAL_S = 0.25
"""Often enough that no window of a state moves on by more than it holds."""
WARMUP = 0.25
"""Share of the samples, at the start, that are left out. The encoder's memory grows in steps, with the
largest batch so far, and stays there: of 600 s the first two minutes or so."""
LONG_S = 300.0
SLACK = {"threads": 4.0, "files": 24.0, "used_bytes": float(1 << 20)}
"""What comes and goes with connections, and pages of a store."""
EVENT_BYTES, FORGOTTEN_BYTES = 32, 100
"""What a store keeps of an event, and of a user who was forgotten: a tombstone and the ids of applied requests."""
GROWTH = 1.1
MEMORY_GROWTH, SHORT_MEMORY_GROWTH = 1.05, 1.5
"""Of a soak of five minutes and more, and of a shorter one, most of which is warming up."""


ResourceSample = Mapping[str, int]
"""Usage of the server's processes, live bytes of its store, and those that it may have (`kept_bytes`), by name."""


async def watch(
    pid: Callable[[], int], store: StateStore, ledger: EventLedger, samples: list[ResourceSample], over: asyncio.Event
) -> None:
    """Read the store and sample the server until it is over.

    Args:
        pid: of the server; another one where it is started again.
    """
    while not over.is_set():
        ledger.read(store)
        kept = sum(FORGOTTEN_BYTES if own.closed else EVENT_BYTES * own.count for own in ledger.users.values())
        samples.append(use_of_server(pid()) | {"used_bytes": store.stat().used_bytes, "kept_bytes": kept})
        await asyncio.sleep(INTERVAL_S)


def growth(samples: Sequence[ResourceSample]) -> dict[str, tuple[float, float]]:
    """Means over the first and over the last fifth, by name, once the server is warm."""
    whole = [sample for sample in samples if "anonymous_bytes" in sample]  # not of a server that has ended
    warm = whole[int(len(whole) * WARMUP) :]
    fifth = max(1, len(warm) // 5)

    def mean(part: Sequence[ResourceSample], name: str) -> float:
        return float(np.mean([sample[name] for sample in part]))

    return {name: (mean(warm[:fifth], name), mean(warm[-fifth:], name)) for name in (warm[0] if warm else ())}


def leaks(growth_of: dict[str, tuple[float, float]], *, seconds: float) -> Iterator[str]:
    """One line for everything that grew by more than it may."""
    kept_first, kept_last = growth_of.get("kept_bytes", (0.0, 0.0))
    for name, (first, last) in growth_of.items():
        if name == "kept_bytes":
            continue
        if name == "anonymous_bytes":
            limit = first * (MEMORY_GROWTH if seconds >= LONG_S else SHORT_MEMORY_GROWTH)
        else:
            limit = first * GROWTH + SLACK[name]
            limit += kept_last - kept_first if name == "used_bytes" else 0.0
        if last > limit:
            yield f"{name} grew from {first:,.0f} to {last:,.0f}; at most {limit:,.0f} is allowed"
