"""Latency of the endpoints on real histories, one request at a time: orientation, not a load test."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from hytrec.data.histories import Histories
from hytrec.data.vocabulary import Vocabulary
from hytrec_clients import Events, HytrecClient

USERS = 20
REQUESTS = 100
CANDIDATES = 500


def measure_latency(client: HytrecClient, histories: Histories, vocabulary: Vocabulary) -> dict[str, dict[str, float]]:
    """Milliseconds at p50, p90 and p99 of each kind of request, the kinds taken in turn."""
    generator = np.random.default_rng(0)
    users = generator.choice(len(histories), USERS, replace=False)
    names = {int(user): f"latency-{user}-{time.time_ns()}" for user in users}
    for user, name in names.items():
        history = histories.history(user)
        client.backfill(name, Events(vocabulary.keys_of(history.item_rows), history.times))
    candidates = generator.choice(vocabulary.item_keys, CANDIDATES, replace=False)
    now = int(histories.times.max())

    def event(number: int) -> Events:
        return Events.one(generator.choice(vocabulary.item_keys).item(), now + number)

    requests: dict[str, Callable[[str, int], object]] = {
        "append 1 event": lambda name, number: client.append(name, event(number)),
        f"append 1 and rank {CANDIDATES}": lambda name, number: client.rank(
            name, candidates, event(number), now=now + number
        ),
        "append 1 and recommend 10": lambda name, number: client.recommend(name, event(number), now=now + number),
        f"rank {CANDIDATES}, no event": lambda name, number: client.rank(name, candidates, now=now + number),
    }
    taken: dict[str, list[float]] = {kind: [] for kind in requests}
    for number in range(REQUESTS):
        name = list(names.values())[number % USERS]
        for kind, send in requests.items():
            start = time.perf_counter()
            send(name, number)
            taken[kind].append((time.perf_counter() - start) * 1_000)
    return {kind: {f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 99)} for kind, values in taken.items()}
