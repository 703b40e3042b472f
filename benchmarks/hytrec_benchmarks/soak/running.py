"""Runs a soak on a server of its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from hytrec.data.vocabulary import Vocabulary
from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_benchmarks.faults.faulty_proxy import FaultyProxy
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import serving
from hytrec_benchmarks.soak.actors import ONE_ATTEMPT, TIMEOUT_S, Actor, SharedUserClient, Workload, add_and_forget_user
from hytrec_benchmarks.soak.bad_requests import bad_requests
from hytrec_benchmarks.soak.checking import Reservoir, compare
from hytrec_benchmarks.soak.intruders import BadRequests, MalformedBytes
from hytrec_benchmarks.soak.report import Soak
from hytrec_benchmarks.soak.watching import ResourceSample, growth, watch
from hytrec_clients import AsyncHytrecClient
from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings

USERS = 6
CANDIDATES = 200
MAX_ITEMS = 2_000
MAX_BACKFILL = 3_000
MAX_CONNECTION_S = 0.3
CUT_OFF_TIMEOUTS_S = (0.2, 1.0)
MAX_SAMPLES = 400
END_S = 2 * TIMEOUT_S


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
    responses = Reservoir(size=MAX_SAMPLES, random=random.Random(seed))  # noqa: S311 - which responses are kept
    with serving(repository, folder) as (server, store):
        samples: list[ResourceSample] = []

        async def run() -> tuple[Workload, float, int]:
            workload = Workload(
                client=AsyncHytrecClient(server.grpc_url, timeout_s=TIMEOUT_S),
                ledger=ledger,
                responses=responses,
                users=users,
                candidates=generator.sample(
                    ledger.item_keys, min(CANDIDATES, len(ledger.item_keys), settings.limits.max_candidates)
                ),
                max_backfill=min(MAX_BACKFILL, settings.limits.max_events),
                random=generator,
            )
            watching = asyncio.create_task(watch(server.pid, store, ledger, samples, workload.over))
            start = time.monotonic()
            cut = await _act(server, workload, settings, vocabulary, seconds=seconds, seed=seed)
            await watching
            return workload, time.monotonic() - start, cut

        workload, lasted, cut = asyncio.run(run())
        crashed = ", ".join(server.dead_models())
        if server.returncode is not None:
            crashed = f"tritonserver ended with status {server.returncode}: {server.log_tail()}"
        ledger.read(store)
    say("soak: comparing responses")
    return Soak(
        seconds=lasted,
        outcomes=dict(workload.outcomes),
        faults=ledger.faults(),
        comparison=compare(repository, settings, vocabulary, ledger, responses.samples),
        growth=growth(samples),
        crashed=crashed,
        cut=cut,
    )


async def _act(
    server: EmbeddedServer,
    workload: Workload,
    settings: ServingSettings,
    vocabulary: Vocabulary,
    *,
    seconds: float,
    seed: int,
) -> int:
    """Run all actors for so long, then wait until every request is completed; connections cut."""
    library: Any = require("tritonclient.grpc.aio", extra="client")
    async with AsyncExitStack() as stack:
        proxy = stack.enter_context(FaultyProxy(server.grpc_url, max_life_s=MAX_CONNECTION_S, seed=seed))
        client = await stack.enter_async_context(workload.client)
        cut_off = await stack.enter_async_context(AsyncHytrecClient(proxy.url))
        short = await stack.enter_async_context(AsyncHytrecClient(server.grpc_url, retry=ONE_ATTEMPT))
        triton = await stack.enter_async_context(library.InferenceServerClient(server.grpc_url))
        shared = SharedUserClient(workload, client)
        acts: list[tuple[Actor, Callable[[], Awaitable[str]]]] = [
            *[(Actor.WRITER, shared.write)] * 3,
            (Actor.READER, shared.read),
            *[(Actor.SHORT_DEADLINE, SharedUserClient(workload, short).write_in_short_time)] * 2,
            *[(Actor.CANCELLING, shared.cancel)] * 2,
            (Actor.CUT_OFF, partial(SharedUserClient(workload, cut_off).write_in_short_time, CUT_OFF_TIMEOUTS_S)),
            (Actor.NEW_USER, partial(add_and_forget_user, workload)),
            (Actor.INVALID, BadRequests(triton, bad_requests(settings, vocabulary.item_keys[:1])).send),
            (Actor.MALFORMED, MalformedBytes(workload, grpc=server.grpc_url, http=server.http_url).send),
        ]
        acting = [asyncio.create_task(workload.repeat(actor, act)) for actor, act in acts]
        # An actor ends before the time only by an error of its own; then everything ends.
        await asyncio.wait(acting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        workload.over.set()
        async with asyncio.timeout(END_S):
            await asyncio.gather(*acting)
        return proxy.cut
