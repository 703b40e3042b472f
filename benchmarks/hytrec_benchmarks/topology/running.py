"""The drill: mixed traffic while a server is rolled to a new model, one is killed, and a Redis master fails over."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from hytrec.data.vocabulary import Vocabulary
from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import opened_store
from hytrec_benchmarks.soak.actors import Actor, SharedUserClient
from hytrec_benchmarks.soak.checking import Reservoir, compare
from hytrec_benchmarks.topology.cost import Meter
from hytrec_benchmarks.topology.parts import Topology, running_topology
from hytrec_benchmarks.topology.workload import MAX_SAMPLES, TwoModelWorkload
from hytrec_clients import AsyncHytrecClient
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings

USERS, IN_FLIGHT = 24, 6
CANDIDATES = 100
TIMEOUT_S = 60.0
WARM, ROLL, KILL, FAILOVER = 0.05, 0.3, 0.5, 0.7
"""When the parts of the drill begin, as shares of its time; what requests cost is measured between the first two."""


def run_topology(
    repository: Path, new_repository: Path, folder: Path, *, seconds: float, seed: int = 0
) -> dict[str, Figure]:
    """Serve and disturb for so long; both repositories must be of one vocabulary.

    Args:
        folder: for files of Redis, of the balancer and of servers.

    Returns:
        Figures: final failures, events lost, applied twice and misplaced, wrong scores, responses compared, the longest
        request of each part of the drill, and what a request costs by part, from the time before anything is disturbed.

    Raises:
        HytrecError: a part does not start.
    """
    settings = ServingSettings.load(repository)
    vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
    users = [f"user {number}" for number in range(USERS)]
    ledger = EventLedger(users, item_keys=vocabulary.item_keys.tolist(), seed=seed)
    generator = random.Random(seed)  # noqa: S311 - what is sent and when
    workload = TwoModelWorkload(
        ledger=ledger,
        responses=Reservoir(size=MAX_SAMPLES, random=generator),
        users=users,
        candidates=generator.sample(ledger.item_keys, min(CANDIDATES, len(ledger.item_keys))),
        max_backfill=settings.limits.max_events,
        random=generator,
    )
    with running_topology(repository, new_repository, folder) as topology:
        figures = asyncio.run(_drill(topology, workload, seconds=seconds))
        with opened_store(topology.stored, settings) as store:
            ledger.read(store)
    say("topology: comparing responses")
    return figures | _verdict(workload, (repository, new_repository))


async def _drill(topology: Topology, workload: TwoModelWorkload, *, seconds: float) -> dict[str, Figure]:
    """Traffic, half of it through the balancer, and what happens meanwhile."""
    figures: dict[str, Figure] = {"topology_seconds": seconds}
    meter = Meter(topology.servers, [*topology.redis.masters, *topology.redis.replicas], topology.front)
    async with AsyncExitStack() as opened:
        routed, balanced = [
            await opened.enter_async_context(AsyncHytrecClient(url, timeout_s=TIMEOUT_S))
            for url in (topology.urls(), topology.front.url)
        ]
        actors = [(SharedUserClient(workload, client, client), client is balanced) for client in (routed, balanced)]
        done = {True: 0, False: 0}

        def counted(act: Callable[[], Awaitable[str]], *, through: bool) -> Callable[[], Awaitable[str]]:
            async def acting() -> str:
                outcome = await act()
                done[through] += 1
                return outcome

            return acting

        tasks = []
        for actor, through in actors:
            writers = [(Actor.WRITER, actor.write)] * (IN_FLIGHT // 2 - 1)
            for kind, act in (*writers, (Actor.READER, actor.read)):
                tasks.append(asyncio.create_task(workload.repeat_timed(kind, counted(act, through=through))))
        begun = time.monotonic()
        await _until(begun + WARM * seconds, tasks)  # connections and caches are there
        before = dict(done)
        meter.start()
        await _until(begun + ROLL * seconds, tasks)
        requests = {through: done[through] - before[through] for through in done}
        figures |= meter.stop(requests=sum(requests.values()), balanced=requests[True])
        for name, end, disturb in (
            ("roll", KILL, topology.roll),
            ("kill", FAILOVER, topology.kill),
            ("failover", 1.0, topology.fail_over),
        ):
            say(f"topology: {name}")
            at = time.monotonic()
            await asyncio.to_thread(disturb)
            figures[f"topology_{name}_takes_s"] = time.monotonic() - at
            await _until(begun + end * seconds, tasks)
            figures[f"topology_{name}_slowest_s"] = workload.slowest_s(at, time.monotonic())
        workload.over.set()
        await asyncio.gather(*tasks)
    return figures


async def _until(moment: float, tasks: list[asyncio.Task[None]]) -> None:
    """Sleep; a task that fails ends everything."""
    rest = moment - time.monotonic()
    done, _ = await asyncio.wait(tasks, timeout=max(rest, 0), return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def _verdict(workload: TwoModelWorkload, repositories: Sequence[Path]) -> dict[str, Figure]:
    by_fingerprint = {ServingSettings.load(repository).fingerprint: repository for repository in repositories}
    faults = workload.ledger.faults()
    for failure in workload.failures[:3]:
        say(f"topology: {failure}")
    compared = wrong = 0
    for fingerprint, reservoir in workload.by_model.items():
        repository = by_fingerprint[fingerprint]
        settings = ServingSettings.load(repository)
        vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
        found = compare(repository, settings, vocabulary, workload.ledger, reservoir.samples)
        compared += found.compared
        wrong += found.wrong + found.unknown
    return {
        "topology_requests": sum(workload.outcomes.values()),
        "topology_final_failures": len(workload.failures),
        "topology_events_lost": faults["lost"],
        "topology_events_applied_twice": faults["twice"],
        "topology_events_misplaced": faults["misplaced"] + faults["unknown"] + faults["unseen"],
        "topology_models": len(workload.by_model),
        "topology_responses_compared": compared,
        "topology_wrong_scores": wrong,
    }
