"""Timings of things that take turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import gc
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

    Every round runs each of them once, every other round in the opposite order. One round before the first is not
    counted: it pays for caches and first allocations.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    forth = list(contenders)
    back = forth[::-1]
    gc.collect()
    gc.disable()
    try:
        for number in track(range(rounds), text):
            for name in back if number % 2 else forth:
                start = clock()
                contenders[name]()
                taken[name].append(1_000 * (clock() - start))
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in taken.items()}
