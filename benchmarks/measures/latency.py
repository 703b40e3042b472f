"""How long a served call takes, one at a time: orientation, not a load test."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from hytrec_clients import Events, HytrecClient
from measures.progress import track


def latencies(
    client: HytrecClient, users: Sequence[str], keys: Sequence[int], *, calls: int, now: int
) -> dict[str, float]:
    """Milliseconds at p50 and p99 of each endpoint; every call carries one new event, the endpoints take turns.

    Args:
        users: who gets the events, in turn; they have histories already.
        keys: items of the events, in turn, and the candidates.
        calls: of each endpoint.
        now: unix seconds; not before the users' last events.
    """
    endpoints: dict[str, Callable[[str, Events], object]] = {
        "append": client.append,
        "rank": lambda user, event: client.rank(user, keys, event, now=now),
        "recommend": lambda user, event: client.recommend(user, event, now=now),
    }
    taken_ms: dict[str, list[float]] = {name: [] for name in endpoints}
    for number in track(range(calls), "timing calls"):
        event = Events.one(keys[number % len(keys)], now)
        for name, call in endpoints.items():
            start = time.perf_counter()
            call(users[number % len(users)], event)
            taken_ms[name].append(1_000 * (time.perf_counter() - start))
    return {
        f"served_{name}_p{percentile}_ms": float(np.percentile(values, percentile))
        for name, values in taken_ms.items()
        for percentile in (50, 99)
    }
