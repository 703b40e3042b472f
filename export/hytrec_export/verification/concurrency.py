"""A live server asked by many at once: whether the results stay the same, and whether a burst stalls in a queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import TypeVar

import numpy as np

from hytrec_export.verification.findings import Finding, failed, ok

USERS = 16
IDLE_S = 0.7
"""Before a burst, so that nothing is in flight that would wake a batcher which sleeps beside waiting requests."""
SINGLES, BURSTS = 24, 6
ROUNDS = 2
"""A busy machine slows one round down, a stall every one."""
_STALL_MS = 300.0
"""What Triton's batcher with a queue policy waits is 500 ms (see `repository.dynamic_batching`)."""
_PATIENCE = 1.5
_BARRIER_TIMEOUT_S = 60.0
Result = TypeVar("Result")


def together(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Results of tasks that begin at the same moment, each in a thread.

    Raises:
        Exception: that of the first task in order that failed.
    """
    barrier = Barrier(len(tasks))

    def run(task: Callable[[], Result]) -> Result:
        barrier.wait(_BARRIER_TIMEOUT_S)
        return task()

    with ThreadPoolExecutor(len(tasks)) as threads:
        running = [threads.submit(run, task) for task in tasks]
        return [one.result() for one in running]


def check_bursts(requests: Sequence[Callable[[], object]]) -> Finding:
    """Compare the 99th percentile of requests in bursts, after idle times, with requests one at a time.

    Args:
        requests: each of a user of its own; they are sent again and again.
    """
    for _ in range(ROUNDS):
        single_ms = float(np.median([_ms(requests[number % len(requests)]) for number in range(SINGLES)]))
        burst_ms = float(np.percentile([taken for _ in range(BURSTS) for taken in _burst(requests)], 99))
        allowed_ms = _STALL_MS + _PATIENCE * len(requests) * single_ms
        found = (
            f"bursts of {len(requests)} requests take {burst_ms:.0f} ms (p99), a request alone {single_ms:.0f} ms (p50)"
        )
        if burst_ms <= allowed_ms:
            return ok(found)
    return failed(
        f"{found}, and at most {allowed_ms:.0f} ms are expected: they stall in a queue; take queue policies out of "
        "every config.pbtxt, or verify again while the machine is not busy"
    )


def _burst(requests: Sequence[Callable[[], object]]) -> list[float]:
    time.sleep(IDLE_S)
    return together([partial(_ms, request) for request in requests])


def _ms(request: Callable[[], object]) -> float:
    start = time.perf_counter()
    request()
    return 1_000 * (time.perf_counter() - start)
