"""Two client processes append to one user at once, through a proxy that loses responses."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Sequence
from dataclasses import dataclass

from hytrec_benchmarks.faults.event_ledger import MAX_EVENTS, UNKNOWN_KEY, EventLedger
from hytrec_benchmarks.faults.faulty_proxy import FaultyProxy
from hytrec_benchmarks.faults.writers import append_until_acknowledged
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_clients import HytrecClient

CLIENTS = 2
USER = "contended"
LOSS = 0.1
MAX_SILENCE_S = 2.0
"""Longer than a client waits for a response now and then, so that it retries while the first response is pending."""
TIMEOUT_S = 300


@dataclass(frozen=True)
class Acknowledged:
    """One write: its events, and its receipt's event count (of a later moment if another attempt applied them)."""

    events: int
    event_count: int
    applied: bool


def race(url: str, *, requests: int, seed: int = 0) -> dict[str, Figure]:
    """Let each of the clients make so many writes.

    Args:
        url: of a server whose user "contended" is new.

    Returns:
        Figures: events sent, of which each was acknowledged; by how many the server holds more or fewer, and how many
        indices receipts claim twice (0 when every event is in the state, once); responses that never came.

    Raises:
        Exception: what a client failed with.
        multiprocessing.TimeoutError: the clients did not end in time.
    """
    with FaultyProxy(url, loss=LOSS, max_silence_s=MAX_SILENCE_S, seed=seed) as proxy:
        # Spawned: a fork of this process would inherit its gRPC threads' locks.
        with multiprocessing.get_context("spawn").Pool(CLIENTS) as clients:
            tasks = [(proxy.url, USER, requests, seed + number) for number in range(CLIENTS)]
            written = clients.starmap_async(append_in_turn, tasks, chunksize=1).get(TIMEOUT_S)
        lost = proxy.lost
    with HytrecClient(url) as reader:
        event_count = reader.append(USER).event_count
    acknowledged = [write for own in written for write in own]
    sent = sum(write.events for write in acknowledged)
    return {
        "concurrent_event_count_error": abs(event_count - sent) + overlaps(acknowledged),
        "concurrent_events": sent,
        "concurrent_answers_lost": lost,
    }


def append_in_turn(url: str, user: str, requests: int, seed: int) -> list[Acknowledged]:
    """Append so many times to one user, each time until it is acknowledged."""
    generator = random.Random(seed)  # noqa: S311 - sizes of writes
    ledger, written = EventLedger([user], item_keys=[UNKNOWN_KEY], seed=seed), []
    with HytrecClient(url) as client:
        for _ in range(requests):
            events = ledger.draw(user, generator.randint(1, MAX_EVENTS))
            receipt = append_until_acknowledged(client, user, events)
            written.append(Acknowledged(len(events), receipt.event_count, receipt.applied))
    return written


def overlaps(acknowledged: Sequence[Acknowledged]) -> int:
    """How many indices of the history are claimed more than once by receipts of applied events."""
    claimed = [
        index
        for write in acknowledged
        if write.applied
        for index in range(write.event_count - write.events, write.event_count)
    ]
    return len(claimed) - len(set(claimed))
