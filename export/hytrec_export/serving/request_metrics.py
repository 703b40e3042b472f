"""What an operator asks of the requests of a fused model. No user ids."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from threading import Lock
from typing import Any, TypeAlias, TypeVar

from hytrec.contract import StateStatus
from hytrec.signature import APPLIED, STATE_STATUS, TIMES
from hytrec_export.errors import InputError, OverloadError, StateStoreError
from hytrec_export.serving.fused_pipeline import PipelineRequest
from hytrec_export.serving.load_step import ReplayNeededError, StepResult
from hytrec_export.serving.validation import Inputs

ResultsT = TypeVar("ResultsT")
RunBatch: TypeAlias = Callable[[Sequence[PipelineRequest]], list[StepResult]]


class Code(StrEnum):
    """gRPC status of a response."""

    OK = "OK"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A metric: its name, what it says, and its label; of a histogram the upper ends of its buckets.

    Args:
        labels: names, in the order of a series' values.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 8.192)
REQUESTS = Family(
    name="hytrec_requests_total", help="Responses of the endpoints, by gRPC status", labels=("endpoint", "code")
)
APPLIED_EVENTS = Family(name="hytrec_applied_events_total", help="Events that were written", labels=("endpoint",))
STATES = Family(
    name="hytrec_states_total", help="Successful requests, by what the store held of the user", labels=("status",)
)
REQUEST_SECONDS = Family(
    name="hytrec_request_duration_seconds",
    help="Time of a request in the model, without the queue",
    labels=("endpoint",),
    buckets=_SECONDS,
)
STEP_SECONDS = Family(
    name="hytrec_step_duration_seconds", help="Time of a step for a server batch", labels=("step",), buckets=_SECONDS
)
BATCH_SIZE = Family(
    name="hytrec_batch_size", help="Requests that ran together", buckets=tuple(map(float, (1, 2, 4, 8, 16, 32, 64)))
)
_STATUSES = {int(status): (status.label,) for status in StateStatus}
FAMILIES = (REQUESTS, APPLIED_EVENTS, STATES, REQUEST_SECONDS, STEP_SECONDS, BATCH_SIZE)

Series: TypeAlias = tuple[Family, tuple[str, ...]]
"""A metric and the values of its labels."""
Sample: TypeAlias = tuple[str, dict[str, str], float]
"""Suffix of the metric's name, labels, value."""


class RequestMetrics:
    """Adds up what happened to requests since the process began. Safe to share between threads.

    Args:
        clock: seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = Lock()
        self._counts: Counter[Series] = Counter()
        self._observed: dict[Series, _Histogram] = {}

    def described(self) -> list[dict[str, Any]]:
        """Every family with name, help, type and samples: suffix of the name, labels, value; as JSON takes it."""
        samples: dict[str, list[Sample]] = {family.name: [] for family in FAMILIES}
        with self._lock:
            for (family, values), count in self._counts.items():
                samples[family.name].append(("", dict(zip(family.labels, map(str, values), strict=True)), count))
            for (family, values), histogram in self._observed.items():
                labels = dict(zip(family.labels, map(str, values), strict=True))
                samples[family.name] += histogram.samples(labels)
        return [
            {
                "name": family.name,
                "help": family.help,
                "type": "histogram" if family.buckets else "counter",
                "samples": samples[family.name],
            }
            for family in FAMILIES
        ]

    def _observe(self, family: Family, values: tuple[str, ...], value: float) -> None:
        series = family, values
        histogram = self._observed.get(series)
        if histogram is None:
            histogram = self._observed[series] = _Histogram(family.buckets)
        histogram.add(value)

    def timing(self, name: str, step: Callable[[Sequence[Inputs]], ResultsT]) -> Callable[[Sequence[Inputs]], ResultsT]:
        """A step whose time is observed."""

        def run(batch: Sequence[Inputs]) -> ResultsT:
            start = self._clock()
            try:
                return step(batch)
            finally:
                seconds = self._clock() - start
                with self._lock:
                    self._observe(STEP_SECONDS, (name,), seconds)

        return run

    def counting(self, run: RunBatch) -> RunBatch:
        """A pipeline whose requests are counted; those that have to run again as long ones are counted then."""

        def counted(batch: Sequence[PipelineRequest]) -> list[StepResult]:
            start = self._clock()
            results = run(batch)
            seconds = self._clock() - start
            with self._lock:
                self._observe(BATCH_SIZE, (), len(batch))
                for request, result in zip(batch, results, strict=True):
                    self._add(request, result, seconds)
            return results

        return counted

    def _add(self, request: PipelineRequest, result: StepResult, seconds: float) -> None:
        if isinstance(result, ReplayNeededError):
            return
        endpoint, counts = (request.endpoint.name,), self._counts
        counts[REQUESTS, (*endpoint, code_of(result))] += 1
        self._observe(REQUEST_SECONDS, endpoint, seconds)
        if isinstance(result, Exception):
            return
        counts[STATES, _STATUSES[result[STATE_STATUS.name].item()]] += 1
        if result[APPLIED.name].item():
            counts[APPLIED_EVENTS, endpoint] += request.inputs[TIMES.name].size


class _Histogram:
    """How many values lie at or below each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, labels: dict[str, str]) -> Iterator[Sample]:
        ends = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        for end, count in zip(ends, accumulate(self._counts), strict=True):
            yield "_bucket", labels | {"le": end}, count
        yield "_sum", labels, self._sum
        yield "_count", labels, sum(self._counts)


def code_of(result: StepResult) -> Code:
    """The gRPC status that a result is sent with; that of `responses`."""
    if not isinstance(result, Exception):
        return Code.OK
    if isinstance(result, InputError):
        return Code.INVALID_ARGUMENT
    return Code.UNAVAILABLE if isinstance(result, (StateStoreError, OverloadError)) else Code.INTERNAL
