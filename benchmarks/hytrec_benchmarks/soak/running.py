"""Runs a soak on a server of its own."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hytrec.data.vocabulary import Vocabulary
from hytrec_benchmarks.faults.cutting_proxy import CuttingProxy
from hytrec_benchmarks.faults.killing import opened
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.soak.actors import HURRIED, PATIENT_S, Actor, Caller, Newcomer, Scene
from hytrec_benchmarks.soak.bad_calls import bad_calls
from hytrec_benchmarks.soak.book import Book
from hytrec_benchmarks.soak.checking import compare
from hytrec_benchmarks.soak.intruders import Garbler, Refused
from hytrec_benchmarks.soak.report import Soak
from hytrec_benchmarks.soak.watching import Look, growth, watch
from hytrec_clients import AsyncHytrecClient
from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.options import StoreOptions

USERS = 6
CANDIDATES = 200
MOST_ITEMS = 2_000
LONGEST_BACKFILL = 3_000
CONNECTION_LIFE_S = 0.3
CUT_OFF_S = 1.0
MOST_SAMPLES = 400
END_S = 2 * PATIENT_S


def soak(repository: Path, folder: Path, *, seconds: float, seed: int = 0) -> Soak:
    """Soak a server of a repository.

    Args:
        folder: for the state store.

    Raises:
        HytrecError: the server does not start.
        TimeoutError: calls under way at the end are never answered.
    """
    stored = StoreOptions(path=folder / "state")
    options = ServerOptions(
        repository=repository, grpc_port=0, http_port=0, metrics_port=0, environment=stored.to_environment()
    )
    settings = ServingSettings.load(repository)
    vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
    book = Book(
        [f"user {number}" for number in range(USERS)],
        item_keys=vocabulary.item_keys[:MOST_ITEMS].tolist(),
        most_samples=MOST_SAMPLES,
        seed=seed,
    )
    with EmbeddedServer(options) as server, opened(stored, settings) as store:
        looks: list[Look] = []

        async def all_of_it() -> tuple[Scene, float, int]:
            scene = _scene(server, book, settings, seed)
            watching = asyncio.create_task(watch(server.pid, store, book, looks, scene.over))
            start = time.monotonic()
            cut = await _act(server, scene, settings, vocabulary, seconds=seconds, seed=seed)
            await watching
            return scene, time.monotonic() - start, cut

        scene, lasted, cut = asyncio.run(all_of_it())
        crashed = ", ".join(server.dead_models())
        if server.returncode is not None:
            crashed = f"tritonserver ended with status {server.returncode}: {server.log_tail()}"
        book.look(store)
    say("soak: comparing answers")
    return Soak(
        seconds=lasted,
        outcomes=dict(scene.outcomes),
        balance=book.balance(),
        comparison=compare(repository, settings, vocabulary, book),
        growth=growth(looks),
        crashed=crashed,
        cut=cut,
    )


def _scene(server: EmbeddedServer, book: Book, settings: ServingSettings, seed: int) -> Scene:
    generator = random.Random(seed)  # noqa: S311 - who does what and when
    items = book.item_keys
    count = min(CANDIDATES, len(items), settings.limits.max_candidates)
    return Scene(
        client=AsyncHytrecClient(server.grpc_url, timeout_s=PATIENT_S),
        book=book,
        users=list(book.accounts),
        candidates=generator.sample(items, count),
        longest_backfill=min(LONGEST_BACKFILL, settings.limits.max_events),
        random=generator,
    )


async def _act(
    server: EmbeddedServer,
    scene: Scene,
    settings: ServingSettings,
    vocabulary: Vocabulary,
    *,
    seconds: float,
    seed: int,
) -> int:
    """Let everyone act for so long, then wait until every call is answered; connections cut off."""
    library: Any = require("tritonclient.grpc.aio", extra="client")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(scene.client)
        proxy = await stack.enter_async_context(
            CuttingProxy(server.grpc_url, longest_life_s=CONNECTION_LIFE_S, seed=seed)
        )
        cut_off = await stack.enter_async_context(AsyncHytrecClient(proxy.url))
        hurried = await stack.enter_async_context(AsyncHytrecClient(server.grpc_url, retry=HURRIED))
        triton = await stack.enter_async_context(library.InferenceServerClient(server.grpc_url))
        caller = Caller(scene, client)
        acts = [
            *[(Actor.CLICKER, caller.click)] * 3,
            (Actor.READER, caller.read),
            *[(Actor.HURRIED, Caller(scene, hurried).hurry)] * 2,
            *[(Actor.CANCELING, caller.cancel)] * 2,
            (Actor.CUT_OFF, lambda: Caller(scene, cut_off).hurry(CUT_OFF_S / 5, CUT_OFF_S)),
            (Actor.NEWCOMER, Newcomer(scene).visit),
            (Actor.BAD, Refused(triton, bad_calls(settings, vocabulary.item_keys[:1])).call),
            (Actor.GARBLED, Garbler(scene, grpc=server.grpc_url, http=server.http_url).send),
        ]
        acting = [asyncio.create_task(scene.keep_on(actor, act)) for actor, act in acts]
        # An actor ends before the time only by an error of its own; then everything ends.
        await asyncio.wait(acting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        scene.over.set()
        async with asyncio.timeout(END_S):
            await asyncio.gather(*acting)
        return proxy.cut
