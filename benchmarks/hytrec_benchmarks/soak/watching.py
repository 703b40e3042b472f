"""What the server uses of the machine while it is soaked, and whether that grows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from hytrec_benchmarks.fixtures.resources import Use, use_of_server
from hytrec_benchmarks.soak.book import Book
from hytrec_export.state.store import StateStore

LOOK_S = 0.25
"""Often enough that no window of a state moves on by more than it holds."""
SETTLED = 0.25
"""Share of the samples, at the start, that tell of warming up alone. The encoder's memory grows in steps, with the
largest batch so far, and stays there: of 600 s the first two minutes or so."""
LONG_S = 300.0
SLACK = {"threads": 4.0, "files": 24.0, "used_bytes": float(1 << 20)}
"""What comes and goes with connections, and pages of a store."""
GROWTH = 1.1
MEMORY_GROWTH, SHORT_MEMORY_GROWTH = 1.05, 1.5
"""Of a soak of five minutes and more, and of a shorter one, most of which is warming up."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One sample: what the processes use, and live bytes of the store."""

    use: Use
    used_bytes: int

    def values(self) -> dict[str, int]:
        """By name."""
        return asdict(self.use) | {"used_bytes": self.used_bytes}


async def watch(pid: int, store: StateStore, book: Book, looks: list[Look], over: asyncio.Event) -> None:
    """Look until it is over."""
    while not over.is_set():
        book.look(store)
        looks.append(Look(use=use_of_server(pid), used_bytes=store.stat().used_bytes))
        await asyncio.sleep(LOOK_S)


def growth(looks: Sequence[Look]) -> dict[str, tuple[float, float]]:
    """Means over the first and over the last fifth, by name, once the server is warm."""
    warm = looks[int(len(looks) * SETTLED) :]
    fifth = max(1, len(warm) // 5)
    return {
        name: tuple(float(np.mean([look.values()[name] for look in part])) for part in (warm[:fifth], warm[-fifth:]))  # type: ignore[misc]
        for name in (looks[0].values() if looks else ())
    }


def leaks(grown: dict[str, tuple[float, float]], *, seconds: float) -> Iterator[str]:
    """One line for everything that grew by more than it may."""
    for name, (first, last) in grown.items():
        if name == "anonymous_bytes":
            limit = first * (MEMORY_GROWTH if seconds >= LONG_S else SHORT_MEMORY_GROWTH)
        else:
            limit = first * GROWTH + SLACK[name]
        if last > limit:
            yield f"{name} grew from {first:,.0f} to {last:,.0f}; at most {limit:,.0f} is allowed"
