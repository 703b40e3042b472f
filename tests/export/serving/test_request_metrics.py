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
    Code,
    RequestMetrics,
)


@pytest.fixture
def metrics() -> RequestMetrics:
    """Every look at the clock takes half a second."""
    return RequestMetrics(clock=itertools.count(0.0, 0.5).__next__)


def request(endpoint: Ensemble, events: int) -> PipelineRequest:
    return PipelineRequest(endpoint=endpoint, inputs={TIMES.name: np.ones((1, events), np.int64)} if events else {})


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
    amounts = metrics.take()
    assert dict(amounts.counts) == {
        (REQUESTS, (APPEND.name, Code.OK)): 2,
        (REQUESTS, (RANK.name, Code.OK)): 1,
        (REQUESTS, (RANK.name, Code.INVALID_ARGUMENT)): 1,
        (REQUESTS, (RANK.name, Code.UNAVAILABLE)): 1,
        (REQUESTS, (RANK.name, Code.INTERNAL)): 2,
        (STATES, ("new",)): 1,
        (STATES, ("found",)): 1,
        (STATES, ("rebuilt",)): 1,
        (APPLIED_EVENTS, (APPEND.name,)): 3,
    }
    assert dict(amounts.observed) == {
        (BATCH_SIZE, ()): [7.0],
        (REQUEST_SECONDS, (APPEND.name,)): [0.5] * 2,
        (REQUEST_SECONDS, (RANK.name,)): [0.5] * 5,
    }
    assert not metrics.take().counts


def test_a_request_that_runs_again_is_counted_when_it_ends(metrics: RequestMetrics) -> None:
    again: list[StepResult] = [ReplayNeededError()]
    metrics.counting(lambda _: again)([request(RANK, 1)])
    assert not metrics.take().counts
    metrics.counting(lambda _: [success(applied=True)])([request(RANK, 1)])
    assert metrics.take().counts[REQUESTS, (RANK.name, Code.OK)] == 1


def test_steps_are_timed_though_they_fail(metrics: RequestMetrics) -> None:
    def step(batch: Sequence[object]) -> list[StepResult]:
        if not batch:
            raise ValueError("nothing")
        return []

    timed = metrics.timing(ENCODER.name, step)
    assert timed([{}]) == []
    with pytest.raises(ValueError, match="nothing"):
        timed([])
    assert metrics.take().observed == {(STEP_SECONDS, (ENCODER.name,)): [0.5, 0.5]}


def test_names_follow_prometheus_and_name_no_user() -> None:
    for family in FAMILIES:
        assert family.name.endswith("_total") != bool(family.buckets)
        assert list(family.buckets) == sorted(family.buckets)
        assert set(family.labels) <= {"endpoint", "code", "status", "step"}
