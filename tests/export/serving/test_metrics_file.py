"""Metrics of requests reach the server's folder once in a while, and all of them before the end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hytrec.signature import APPEND, APPLIED, STATE_STATUS, TIMES
from hytrec_export.server.model_metrics import model_metrics_text
from hytrec_export.serving.fused_pipeline import PipelineRequest
from hytrec_export.serving.metrics_file import MetricsFile
from hytrec_export.serving.request_metrics import RequestMetrics
from hytrec_export.settings import SERVER_FOLDER_VARIABLE

FOREVER_S = 1e6
COUNTED = 'hytrec_requests_total{endpoint="hytrec_append",code="OK"}'


@pytest.fixture
def metrics() -> RequestMetrics:
    return RequestMetrics()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(SERVER_FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def make_requests(metrics: RequestMetrics, count: int) -> None:
    result = {APPLIED.name: np.array([[True]]), STATE_STATUS.name: np.array([[1]])}
    request = PipelineRequest(endpoint=APPEND, inputs={TIMES.name: np.array([[5, 6]])})
    metrics.counting(lambda batch: [result] * len(batch))([request] * count)


def test_what_happened_is_written_and_the_rest_at_the_end(metrics: RequestMetrics, folder: Path) -> None:
    file = MetricsFile(metrics, period_s=FOREVER_S)
    make_requests(metrics, 2)
    file.write()
    lines = model_metrics_text(folder).splitlines()
    assert {f"{COUNTED} 2", 'hytrec_applied_events_total{endpoint="hytrec_append"} 4', "hytrec_batch_size_count 1"} <= {
        *lines
    }
    assert lines.index("# TYPE hytrec_batch_size histogram") < lines.index('hytrec_batch_size_bucket{le="2"} 1')
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_ino
    file.write()
    assert path.stat().st_ino == before  # nothing was new
    make_requests(metrics, 3)
    file.close()
    assert f"{COUNTED} 5" in model_metrics_text(folder).splitlines()


def test_it_writes_by_itself(metrics: RequestMetrics, folder: Path) -> None:
    file = MetricsFile(metrics, period_s=0.001)
    make_requests(metrics, 1)
    while f"{COUNTED} 1" not in model_metrics_text(folder).splitlines():  # the test's own time limit ends it
        pass
    file.close()


def test_processes_are_added_and_what_is_damaged_is_left_out(
    metrics: RequestMetrics, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for process, count in ((1, 2), (2, 5)):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        own = RequestMetrics()
        make_requests(own, count)
        MetricsFile(own, period_s=FOREVER_S).close()
    (folder / "metrics-3.json").write_text("[{")
    lines = model_metrics_text(folder).splitlines()
    assert {f"{COUNTED} 7", "hytrec_batch_size_sum 7", "hytrec_batch_size_count 2"} <= {*lines}
    assert lines.count("# TYPE hytrec_requests_total counter") == 1


def test_without_a_folder_nothing_is_written(
    metrics: RequestMetrics, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SERVER_FOLDER_VARIABLE)
    file = MetricsFile(metrics)
    make_requests(metrics, 1)
    file.write()
    file.close()
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_gone_is_no_error(
    metrics: RequestMetrics, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER_FOLDER_VARIABLE, str(folder / "gone"))
    file = MetricsFile(metrics, period_s=FOREVER_S)
    make_requests(metrics, 1)
    file.close()
    assert model_metrics_text(folder / "gone") == ""
