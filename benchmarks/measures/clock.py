"""Timings of things that take turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping

from measures.progress import track


def interleaved_medians_ms(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    text: str,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median milliseconds of each contender.

    Every round runs each of them once, in an order drawn anew: what ran just before decides how warm the caches are.
    One round before the first is not counted: it pays for first allocations.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    order = list(contenders)
    generator = random.Random(0)  # noqa: S311 - an order, not a secret
    gc.collect()
    gc.disable()
    try:
        for _ in track(range(rounds), text):
            generator.shuffle(order)
            for name in order:
                start = clock()
                contenders[name]()
                taken[name].append(1_000 * (clock() - start))
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in taken.items()}
