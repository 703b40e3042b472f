"""Metrics of requests reach Triton once in a while, and all of them before the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hytrec.signature import APPEND, APPLIED, STATE_STATUS, TIMES
from hytrec_export.serving.fused_pipeline import PipelineRequest
from hytrec_export.serving.request_metrics import RequestMetrics
from hytrec_export.serving.triton_models.publisher import Publisher

FOREVER_S = 1e6
COUNTED = "hytrec_requests_total{'endpoint': 'hytrec_append', 'code': 'OK'}"


@pytest.fixture
def metrics() -> RequestMetrics:
    return RequestMetrics()


def make_requests(metrics: RequestMetrics, count: int) -> None:
    result = {APPLIED.name: np.array([[True]]), STATE_STATUS.name: np.array([[1]])}
    request = PipelineRequest(endpoint=APPEND, inputs={TIMES.name: np.array([[5, 6]])})
    metrics.counting(lambda batch: [result] * len(batch))([request] * count)


def test_everything_is_published_once(pb_utils: Any, metrics: RequestMetrics) -> None:
    publisher = Publisher(metrics, period_s=FOREVER_S)
    published = pb_utils.MetricFamily.published
    assert published == {}
    make_requests(metrics, 2)
    publisher.publish()
    assert published[COUNTED] == 2
    assert published["hytrec_applied_events_total{'endpoint': 'hytrec_append'}"] == 4
    assert published["hytrec_states_total{'status': 'found'}"] == 2
    assert published["hytrec_batch_size{}"] == 2
    publisher.publish()
    assert published[COUNTED] == 2
    make_requests(metrics, 3)
    publisher.close()
    assert published[COUNTED] == 5


def test_it_publishes_by_itself(pb_utils: Any, metrics: RequestMetrics) -> None:
    publisher = Publisher(metrics, period_s=0.001)
    make_requests(metrics, 1)
    while pb_utils.MetricFamily.published.get(COUNTED) != 1:  # the test's own time limit ends it
        pass
    publisher.close()


def test_a_server_without_metrics_is_told_once(
    pb_utils: Any, metrics: RequestMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoMetrics:
        COUNTER, HISTOGRAM = "counter", "histogram"

        def __init__(self, **_: object) -> None:
            raise pb_utils.TritonModelException("metrics are off")

    monkeypatch.setattr(pb_utils, "MetricFamily", NoMetrics)
    publisher = Publisher(metrics, period_s=FOREVER_S)
    make_requests(metrics, 1)
    publisher.close()
    assert pb_utils.Logger.lines == ["no metrics of requests are published: metrics are off"]
    assert not metrics.take().counts  # nothing piles up


def test_a_metric_that_fails_ends_nothing(
    pb_utils: Any, metrics: RequestMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise pb_utils.TritonModelException("too many")

    publisher = Publisher(metrics, period_s=FOREVER_S)
    monkeypatch.setattr(pb_utils.MetricFamily, "Metric", fail)
    make_requests(metrics, 1)
    publisher.publish()
    publisher.close()
    assert pb_utils.Logger.lines[0] == "metrics of requests were not published: too many"
