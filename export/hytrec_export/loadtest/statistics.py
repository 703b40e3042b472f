"""What Triton's statistics say that each model did between two moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

NS_PER_MS = 1e6


@dataclass(frozen=True, kw_only=True)
class ModelTimes:
    """Sums of one model: calls and failures, runs of the model, and nanoseconds over all calls.

    Args:
        calls, failures: requests answered, and refused or failed.
        executions: runs; fewer than calls where calls shared a run.
        total_ns: from a call's coming to its answer.
        queue_ns: waiting for a run. compute_ns: input, inference and output of the run, counted for each of its calls.
    """

    calls: int = 0
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
            calls=times.success.count,
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
        if self.calls < earlier.calls:
            return self
        return ModelTimes(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})

    def to_dict(self) -> dict[str, float | int]:
        """Means a call, in milliseconds."""
        calls = max(1, self.calls)
        return {
            "calls": self.calls,
            "failures": self.failures,
            "mean_batch": round(self.calls / max(1, self.executions), 3),
            "total_ms": self.total_ns / calls / NS_PER_MS,
            "queue_ms": self.queue_ns / calls / NS_PER_MS,
            "compute_ms": self.compute_ns / calls / NS_PER_MS,
        }


def difference(after: Mapping[str, ModelTimes], before: Mapping[str, ModelTimes]) -> dict[str, ModelTimes]:
    """What every model did in between; those that did nothing are left out."""
    done = {name: times.since(before.get(name, ModelTimes())) for name, times in after.items()}
    return {name: times for name, times in done.items() if times.calls or times.failures}


def added(one: Mapping[str, ModelTimes], other: Mapping[str, ModelTimes]) -> dict[str, ModelTimes]:
    """Sums of two spans."""
    return {
        name: one.get(name, ModelTimes()) + other.get(name, ModelTimes()) for name in sorted(one.keys() | other.keys())
    }
