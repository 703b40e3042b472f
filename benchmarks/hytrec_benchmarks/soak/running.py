"""Runs a soak on a server of its own."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from hytrec.data.vocabulary import Vocabulary
from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_benchmarks.faults.faulty_proxy import FaultyProxy
from hytrec_benchmarks.faults.fuzzing import fuzz_grpc, fuzz_http
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import serving
from hytrec_benchmarks.soak.actors import ONE_ATTEMPT, TIMEOUT_S, Actor, SharedUserClient, Workload, add_and_forget_user
from hytrec_benchmarks.soak.bad_requests import BadRequest, bad_requests
from hytrec_benchmarks.soak.checking import Reservoir, compare
from hytrec_benchmarks.soak.intruders import send_bad_request, send_malformed_bytes
from hytrec_benchmarks.soak.report import Soak
from hytrec_benchmarks.soak.watching import ResourceSample, growth, watch
from hytrec_clients import AsyncHytrecClient
from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer
from hytrec_export.server.metrics_endpoint import CrashCause
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings

USERS = 6
CANDIDATES = 200
MAX_ITEMS = 2_000
MAX_BACKFILL = 3_000
MAX_CONNECTION_S = 0.3
CUT_OFF_TIMEOUTS_S = (0.2, 1.0)
MAX_SAMPLES = 400
END_S = 2 * TIMEOUT_S
LOOK_S = 0.25
"""How often the server is looked at."""
CRASHES_PER_S = 1 / 300
"""Triton 2.51 dies by SIGSEGV of one of some thousand calls whose connection is cut as they are completed
(SECURITY.md), which no client can help. It is started again then, as by `hytrec-export serve`; nothing may be lost. A
soak of seconds may meet one, too."""
FUZZED_PER_S = (170, 34)
"""Mutated gRPC and HTTP requests: 102,000 and 20,400 within ten minutes."""
FUZZ_END_S = 600.0


def soak(repository: Path, folder: Path, *, seconds: float, seed: int = 0) -> Soak:
    """Soak a server of a repository.

    Args:
        folder: for the state store.

    Raises:
        HytrecError: the server does not start.
        TimeoutError: requests in flight at the end are never completed.
    """
    settings = ServingSettings.load(repository)
    vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
    users = [f"user {number}" for number in range(USERS)]
    ledger = EventLedger(users, item_keys=vocabulary.item_keys[:MAX_ITEMS].tolist(), seed=seed)
    generator = random.Random(seed)  # noqa: S311 - what is sent and when
    candidates = min(CANDIDATES, len(ledger.item_keys), settings.limits.max_candidates)
    workload = Workload(
        ledger=ledger,
        responses=Reservoir(size=MAX_SAMPLES, random=random.Random(seed)),  # noqa: S311 - which responses are kept
        users=users,
        candidates=generator.sample(ledger.item_keys, candidates),
        max_backfill=min(MAX_BACKFILL, settings.limits.max_events),
        random=generator,
    )
    invalid = bad_requests(settings, vocabulary.item_keys[:1])
    samples: list[ResourceSample] = []
    with serving(repository, folder, http=True) as (server, store):
        revival = Revival(server=server, samples=samples, allowed=ceil(seconds * CRASHES_PER_S))

        async def run() -> int:
            watching = asyncio.create_task(watch(lambda: server.pid, store, ledger, samples, workload.over))
            cut = await _act(server, workload, invalid, revival, seconds=seconds, seed=seed)
            await watching
            return cut

        start = time.monotonic()
        cut = asyncio.run(run())
        end = time.monotonic()
        crashed = ", ".join(server.dead_models())
        if server.returncode is not None:
            crashed = f"tritonserver ended with status {server.returncode}: {server.log_tail()}"
        ledger.read(store)
    say("soak: comparing responses")
    return Soak(
        seconds=end - start,
        undisturbed_s=end - (revival.times[-1] if revival.times else start),
        restarts=len(revival.times),
        outcomes=dict(workload.outcomes),
        faults=ledger.faults(),
        comparison=compare(repository, settings, vocabulary, ledger, workload.responses.samples),
        growth=growth(samples),
        crashed=crashed,
        cut=cut,
    )


async def _act(
    server: EmbeddedServer,
    workload: Workload,
    invalid: Sequence[BadRequest],
    revival: Revival,
    *,
    seconds: float,
    seed: int,
) -> int:
    """Run all actors for so long, then wait until every request is completed; connections cut."""
    library: Any = require("tritonclient.grpc.aio", extra="client")
    async with AsyncExitStack() as stack:
        proxy = stack.enter_context(FaultyProxy(server.grpc_url, max_life_s=MAX_CONNECTION_S, seed=seed))
        client, cut_off, short = [
            await stack.enter_async_context(AsyncHytrecClient(url, **options))
            for url, options in (
                (server.grpc_url, {"timeout_s": TIMEOUT_S}),
                (proxy.url, {}),
                (server.grpc_url, {"retry": ONE_ATTEMPT}),
            )
        ]
        triton = await stack.enter_async_context(library.InferenceServerClient(server.grpc_url))
        ports = {"grpc": server.grpc_url, "http": (server.http_url or "").removeprefix("http://")}
        turns = itertools.cycle(invalid)
        shared, cut, hasty = (SharedUserClient(workload, client, first) for first in (client, cut_off, short))
        acts: list[tuple[Actor, Callable[[], Awaitable[str]]]] = [
            *[(Actor.WRITER, shared.write)] * 3,
            (Actor.READER, shared.read),
            *[(Actor.SHORT_DEADLINE, hasty.write_in_short_time)] * 2,
            *[(Actor.CANCELLING, shared.cancel)] * 2,
            (Actor.CUT_OFF, partial(cut.write_in_short_time, CUT_OFF_TIMEOUTS_S)),
            (Actor.NEW_USER, partial(add_and_forget_user, workload, client)),
            (Actor.INVALID, lambda: send_bad_request(triton, next(turns))),
            (Actor.MALFORMED, partial(send_malformed_bytes, workload.random, **ports)),
        ]
        mutated = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        amount = [max(1, round(per_s * seconds)) for per_s in FUZZED_PER_S]
        fuzzing = asyncio.get_running_loop().run_in_executor(mutated, _fuzz, ports, amount, seed)
        acting = [asyncio.create_task(workload.repeat(actor, act)) for actor, act in acts]
        ended = asyncio.create_task(revival.until_too_many())
        # An actor ends before the time only by an error of its own; then everything ends.
        await asyncio.wait([*acting, ended], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            for task in acting:
                task.cancel()
            workload.over.set()
            return proxy.cut
        async with asyncio.timeout(FUZZ_END_S + seconds):
            workload.outcomes[Actor.FUZZING, "sent"] += await fuzzing
        workload.over.set()
        async with asyncio.timeout(END_S):
            await asyncio.gather(*acting)
        ended.cancel()
        return proxy.cut


@dataclass(kw_only=True)
class Revival:
    """Starts a server again that died by SIGSEGV, at the same addresses.

    Args:
        samples: emptied then, as another process is sampled.
        allowed: so often, and no more.

    Attributes:
        times: when it was ready again, monotonic seconds.
    """

    server: EmbeddedServer
    samples: list[ResourceSample]
    allowed: int
    times: list[float] = field(default_factory=list)

    async def until_too_many(self) -> None:
        """Return once the server has ended for good."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.server.returncode is None:
                continue
            if self.server.returncode != -signal.SIGSEGV or len(self.times) == self.allowed:
                return
            say("soak: the server died by SIGSEGV, and is started again")
            await asyncio.to_thread(self._start)
            self.samples.clear()
            self.times.append(time.monotonic())

    def _start(self) -> None:
        self.server.end_crashed(CrashCause.SIGNAL)
        self.server.start()
        self.server.wait_ready()


def _fuzz(ports: Mapping[str, str], requests: Sequence[int], seed: int) -> int:
    """Send mutated gRPC and HTTP requests, in a process of its own: how many."""
    grpc_requests, http_requests = requests
    sent = fuzz_grpc(ports["grpc"], requests=grpc_requests, seed=seed).total()
    return sent + fuzz_http(ports["http"], requests=http_requests, seed=seed).total()
