"""Who takes part in a comparison: servers under one client, and onnxruntime without a server."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History, Int64Array
from hytrec.run_folder import Run
from hytrec_benchmarks.fixtures.context import Context
from hytrec_benchmarks.peers.traffic import Visitor, Window
from hytrec_clients import AsyncHytrecClient, Ranking, Receipt
from hytrec_export.loadtest.in_process import InProcessBackend
from hytrec_export.runtime.model_chain import ModelChain, split_every
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.state.options import StoreOptions

CANDIDATES = 500
CALL_TIMEOUT_S = 900.0
"""Time for the slowest of all: torch.compile's first call."""


def visitors(run: Run, histories: Sequence[History], *, events: int, count: int, seed: int = 0) -> list[Visitor]:
    """Users who have made so many events, from the beginnings of real histories in turn."""
    generator = np.random.default_rng(seed)
    found = []
    for number, history in zip(range(count), itertools.cycle(histories), strict=False):
        known = history.item_rows <= run.config.items
        candidates = generator.choice(run.config.items, min(CANDIDATES, run.config.items), replace=False) + 1
        found.append(
            Visitor(
                name=f"{events} events, {number}",
                item_keys=run.vocabulary.keys_of(history.item_rows[known]),
                times=history.times[known],
                candidate_keys=run.vocabulary.keys_of(candidates),
                visited=events,
            )
        )
    return found


@contextmanager
def started(repository: Path, *, state: Path) -> Iterator[EmbeddedServer]:
    """A server of a repository on free ports, ready.

    Args:
        state: folder of its state store.

    Raises:
        HytrecError: it does not start.
    """
    options = ServerOptions(
        repository=repository,
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        ready_timeout_s=CALL_TIMEOUT_S,
        environment=StoreOptions(path=state).to_environment(),
    )
    with EmbeddedServer(options) as server:
        yield server


@asynccontextmanager
async def served(
    context: Context, repository: Path, *, name: str
) -> AsyncIterator[tuple[EmbeddedServer, AsyncHytrecClient]]:
    """A server of a repository, with a state store of its own, and a client of it."""
    with started(repository, state=context.new_folder(f"state-{name}")) as server:
        async with AsyncHytrecClient(server.grpc_url, timeout_s=CALL_TIMEOUT_S) as client:
            yield server, client


async def settle_in(client: AsyncHytrecClient, guests: Sequence[Visitor]) -> None:
    """Bring the past of every visitor to the server."""
    for guest in guests:
        await client.backfill(guest.name, guest.past)


def append_of(client: AsyncHytrecClient) -> Callable[[Visitor], Awaitable[Receipt]]:
    """Appends the visitor's next event."""
    return lambda guest: client.append(guest.name, guest.next_event())


def rank_of(client: AsyncHytrecClient) -> Callable[[Visitor], Awaitable[Ranking]]:
    """Appends the visitor's next event and ranks its candidates."""

    def rank(guest: Visitor) -> Awaitable[Ranking]:
        event = guest.next_event()
        return client.rank(guest.name, guest.candidate_keys, event, now=guest.now)

    return rank


class Floor:
    """The same question in onnxruntime in this process.

    Args:
        chain: open graphs.
    """

    def __init__(self, chain: ModelChain, run: Run) -> None:
        self._in_process = InProcessBackend(chain)
        self._run = run
        self._candidates: dict[str, Int64Array] = {}

    def settle_in(self, guests: Sequence[Visitor], *, largest_call: int) -> None:
        """Encode the past of every visitor."""
        for guest in guests:
            past = self._history(guest, 0, guest.visited)
            self._in_process.bring([guest.name], split_every(past, largest_call))
            self._candidates[guest.name] = self._run.vocabulary.item_rows(guest.candidate_keys)

    def rank(self, guests: Sequence[Visitor]) -> NDArray[np.float32]:
        """Append the next event of each and rank the candidates of all, in one run: (B, N)."""
        places = [guest.visited for guest in guests]
        for guest in guests:
            guest.next_event()
        return self._in_process.rank(
            [guest.name for guest in guests],
            [self._history(guest, place, place + 1) for guest, place in zip(guests, places, strict=True)],
            now_s=np.array([[guest.now] for guest in guests], np.int64),
            candidates=np.stack([self._candidates[guest.name] for guest in guests]),
        )

    def window(self, guests: Sequence[Visitor], *, batch: int, seconds: float) -> Window:
        """Rankings in batches for so long; a latency is that of a batch, shared by its users."""
        turns = itertools.cycle(guests)
        start = time.perf_counter()
        taken: list[float] = []
        while (before := time.perf_counter()) - start < seconds:
            self.rank(list(itertools.islice(turns, batch)))
            taken += [1_000 * (time.perf_counter() - before)] * batch
        return Window(seconds=time.perf_counter() - start, latencies_ms=taken)

    def _history(self, guest: Visitor, start: int, stop: int) -> History:
        """Events start to stop of a visitor, as rows."""
        places = np.arange(start, stop)
        items = self._run.vocabulary.item_rows(guest.item_keys[places % guest.times.size])
        times = np.array([guest.time_of(int(place)) for place in places], np.int64)
        return History(item_rows=items, behavior_rows=items * 0, times=times)
