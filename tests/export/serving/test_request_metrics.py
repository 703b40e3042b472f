"""What is counted of requests and timed of steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from hytrec.contract import Ensemble
from hytrec.signature import APPEND, APPLIED, ENCODER, RANK, STATE_STATUS, TIMES
from hytrec_export.errors import GraphError, InputError, StateConflictError
from hytrec_export.serving.fused_pipeline import PipelineRequest
from hytrec_export.serving.load_step import ReplayNeededError, StepResult
from hytrec_export.serving.request_metrics import (
    APPLIED_EVENTS,
    BATCH_SIZE,
    FAMILIES,
    REQUEST_SECONDS,
    REQUESTS,
    STATES,
    STEP_SECONDS,
    Family,
    RequestMetrics,
)


@pytest.fixture
def metrics() -> RequestMetrics:
    """Every look at the clock takes half a second."""
    return RequestMetrics(clock=itertools.count(0.0, 0.5).__next__)


def request(endpoint: Ensemble, events: int) -> PipelineRequest:
    return PipelineRequest(endpoint=endpoint, inputs={TIMES.name: np.ones((1, events), np.int64)} if events else {})


def values(metrics: RequestMetrics, family: Family, suffix: str = "") -> list[tuple[dict[str, str], float]]:
    """Labels and values of a family's samples."""
    (described,) = (one for one in metrics.described() if one["name"] == family.name)
    return [(labels, value) for end, labels, value in described["samples"] if end == suffix]


def success(*, applied: bool, status: int = 1) -> StepResult:
    return {APPLIED.name: np.array([[applied]]), STATE_STATUS.name: np.array([[status]], np.int64)}


def test_requests_by_endpoint_and_code(metrics: RequestMetrics) -> None:
    batch = [request(APPEND, 3), request(RANK, 2), request(APPEND, 0), *(request(RANK, 1) for _ in range(4))]
    results: list[StepResult] = [
        success(applied=True, status=0),
        success(applied=False),
        success(applied=False, status=2),
        InputError("wrong"),
        StateConflictError("again"),
        GraphError("broken"),
        ValueError("a bug"),
    ]
    assert metrics.counting(lambda _: results)(batch) is results
    rank, append = {"endpoint": RANK.name}, {"endpoint": APPEND.name}
    assert sorted(values(metrics, REQUESTS), key=str) == sorted(
        [
            (append | {"code": "OK"}, 2),
            (rank | {"code": "OK"}, 1),
            (rank | {"code": "INVALID_ARGUMENT"}, 1),
            (rank | {"code": "UNAVAILABLE"}, 1),
            (rank | {"code": "INTERNAL"}, 2),
        ],
        key=str,
    )
    assert values(metrics, STATES) == [({"status": name}, 1) for name in ("new", "found", "rebuilt")]
    assert values(metrics, APPLIED_EVENTS) == [(append, 3)]
    assert values(metrics, REQUEST_SECONDS, "_count") == [(append, 2), (rank, 5)]
    assert values(metrics, REQUEST_SECONDS, "_sum") == [(append, 1.0), (rank, 2.5)]
    buckets = {"1": 0, "2": 0, "4": 0, "8": 1, "16": 1, "32": 1, "64": 1, "+Inf": 1}
    assert values(metrics, BATCH_SIZE, "_bucket") == [({"le": end}, count) for end, count in buckets.items()]


def test_a_histogram_counts_what_is_at_or_below_each_bound(metrics: RequestMetrics) -> None:
    for size in (1, 2, 2, 3, 100):
        metrics.counting(lambda batch: [ReplayNeededError()] * len(batch))([request(RANK, 1)] * size)
    counts = [count for _, count in values(metrics, BATCH_SIZE, "_bucket")]
    assert counts == [1, 3, 4, 4, 4, 4, 4, 5]
    assert values(metrics, BATCH_SIZE, "_sum") == [({}, 108)]
    assert values(metrics, BATCH_SIZE, "_count") == [({}, 5)]


def test_a_request_that_runs_again_is_counted_when_it_ends(metrics: RequestMetrics) -> None:
    metrics.counting(lambda _: [ReplayNeededError()])([request(RANK, 1)])
    assert values(metrics, REQUESTS) == []
    metrics.counting(lambda _: [success(applied=True)])([request(RANK, 1)])
    assert values(metrics, REQUESTS) == [({"endpoint": RANK.name, "code": "OK"}, 1)]


def test_steps_are_timed_though_they_fail(metrics: RequestMetrics) -> None:
    def step(batch: Sequence[object]) -> list[StepResult]:
        if not batch:
            raise ValueError("nothing")
        return []

    timed = metrics.timing(ENCODER.name, step)
    assert timed([{}]) == []
    with pytest.raises(ValueError, match="nothing"):
        timed([])
    assert values(metrics, STEP_SECONDS, "_sum") == [({"step": ENCODER.name}, 1.0)]


def test_names_follow_prometheus_and_name_no_user() -> None:
    for family in FAMILIES:
        assert family.name.endswith("_total") != bool(family.buckets)
        assert list(family.buckets) == sorted(family.buckets)
        assert set(family.labels) <= {"endpoint", "code", "status", "step"}
