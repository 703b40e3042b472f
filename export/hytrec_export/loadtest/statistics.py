"""Per-model differences of Triton's statistics between two moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

NS_PER_MS = 1e6


@dataclass(frozen=True, kw_only=True)
class ModelTimes:
    """Sums of one model: requests and failures, runs of the model, and nanoseconds summed over requests.

    Args:
        requests, failures: answered, and rejected or failed.
        executions: runs; fewer than requests where requests shared a run.
        total_ns: from arrival to response.
        queue_ns: waiting for a run.
        compute_ns: input, inference and output of the run, counted for each of its requests.
    """

    requests: int = 0
    failures: int = 0
    executions: int = 0
    total_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0

    @classmethod
    def of(cls, model: Any) -> Self:
        """From a ModelStatistics message."""
        times = model.inference_stats
        return cls(
            requests=times.success.count,
            failures=times.fail.count,
            executions=model.execution_count,
            total_ns=times.success.ns,
            queue_ns=times.queue.ns,
            compute_ns=times.compute_input.ns + times.compute_infer.ns + times.compute_output.ns,
        )

    def __add__(self, other: ModelTimes) -> ModelTimes:
        return ModelTimes(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def since(self, earlier: ModelTimes) -> ModelTimes:
        """What was done after `earlier`; all of this where the server started anew meanwhile."""
        if self.requests < earlier.requests:
            return self
        return ModelTimes(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})

    def to_dict(self) -> dict[str, float | int]:
        """Means per request, in milliseconds."""
        requests = max(1, self.requests)
        return {
            "requests": self.requests,
            "failures": self.failures,
            "mean_batch": round(self.requests / max(1, self.executions), 3),
            "total_ms": self.total_ns / requests / NS_PER_MS,
            "queue_ms": self.queue_ns / requests / NS_PER_MS,
            "compute_ms": self.compute_ns / requests / NS_PER_MS,
        }


def difference(after: Mapping[str, ModelTimes], before: Mapping[str, ModelTimes]) -> dict[str, ModelTimes]:
    """What every model did in between; those that did nothing are left out."""
    done = {name: times.since(before.get(name, ModelTimes())) for name, times in after.items()}
    return {name: times for name, times in done.items() if times.requests or times.failures}


def added(one: Mapping[str, ModelTimes], other: Mapping[str, ModelTimes]) -> dict[str, ModelTimes]:
    """Sums of both."""
    return {
        name: one.get(name, ModelTimes()) + other.get(name, ModelTimes()) for name in sorted(one.keys() | other.keys())
    }
