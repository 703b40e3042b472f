"""Per-model differences of Triton's statistics between two moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

NS_PER_MS = 1e6

ModelTimes = Counter[str]
"""Sums of one model.

`requests` and `failures`: answered, and rejected or failed. `executions`: runs of the model, fewer than requests where
these shared a run. Nanoseconds summed over requests: `total_ns` from arrival to response, `queue_ns` waiting for a run,
`compute_ns` input, inference and output of the run, counted for each of its requests.
"""


def times_of(model: Any) -> ModelTimes:
    """From a ModelStatistics message."""
    times = model.inference_stats
    return Counter(
        requests=times.success.count,
        failures=times.fail.count,
        executions=model.execution_count,
        total_ns=times.success.ns,
        queue_ns=times.queue.ns,
        compute_ns=times.compute_input.ns + times.compute_infer.ns + times.compute_output.ns,
    )


def mean_times(times: ModelTimes) -> dict[str, float | int]:
    """Counts, requests per run, and means per request in milliseconds."""
    means = {
        f"{name}_ms": times[f"{name}_ns"] / max(1, times["requests"]) / NS_PER_MS
        for name in ("total", "queue", "compute")
    }
    return {
        "requests": times["requests"],
        "failures": times["failures"],
        "mean_batch": round(times["requests"] / max(1, times["executions"]), 3),
        **means,
    }


def difference(after: Mapping[str, ModelTimes], before: Mapping[str, ModelTimes]) -> dict[str, ModelTimes]:
    """What every model did in between; all of `after` where the server started anew. Idle models are left out."""
    done = {}
    for name, times in after.items():
        earlier = before.get(name, Counter())
        done[name] = times if times["requests"] < earlier["requests"] else times - earlier
    return {name: times for name, times in done.items() if times["requests"] or times["failures"]}


def added(several: Iterable[Mapping[str, ModelTimes]]) -> dict[str, ModelTimes]:
    """Sums by model."""
    sums: dict[str, ModelTimes] = {}
    for models in several:
        for name, times in models.items():
            sums.setdefault(name, Counter()).update(times)
    return dict(sorted(sums.items()))
