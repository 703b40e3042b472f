"""Log and progress monitor."""

from __future__ import annotations

from typing import Any

import pytest

from hytrec_export.exporters.tensorrt.log import KEPT_LINES, Log
from hytrec_export.exporters.tensorrt.monitor import PARTS, Monitor


@pytest.fixture
def log(trt: Any) -> Log:
    return Log(trt)


def test_the_reason_is_the_last_errors_in_one_line(trt: Any, log: Log) -> None:
    for number in range(5):
        log.logger.log(trt.ILogger.ERROR, f"error {number}\n  of five")
        log.logger.log(trt.ILogger.WARNING, "mere warning")
        log.logger.log(trt.ILogger.INFO, "not kept")
    assert log.reason() == "error 2 of five; error 3 of five; error 4 of five"
    assert "not kept" not in log.lines()
    assert "mere warning" in log.lines()


def test_noise_of_a_machine_without_a_gpu_is_no_reason(trt: Any, log: Log) -> None:
    log.logger.log(trt.ILogger.INTERNAL_ERROR, "Thread context has not been set! Using global log stream.")
    log.logger.log(trt.ILogger.ERROR, "In catchCudaError (cudaError 35: CUDA driver version is insufficient)")
    assert log.reason() == "it gave no reason"


def test_a_log_does_not_grow_without_end(trt: Any, log: Log) -> None:
    for _ in range(2 * KEPT_LINES):
        log.logger.log(trt.ILogger.WARNING, "again")
    assert len(log.lines()) == KEPT_LINES
    log.clear()
    assert log.lines() == []


@pytest.fixture
def told() -> list[int]:
    return []


@pytest.fixture
def monitor(trt: Any, told: list[int]) -> Any:
    return Monitor(trt, told.append).monitor


def test_steps_of_an_inner_phase_count_as_part_of_the_outer_step(monitor: Any, told: list[int]) -> None:
    monitor.phase_start("outer", None, 2)
    monitor.phase_start("inner", "outer", 4)
    assert monitor.step_complete("inner", 0) is True
    assert sum(told) == PARTS // 8
    monitor.phase_finish("inner")
    assert monitor.step_complete("outer", 0) is True
    assert sum(told) == PARTS // 2
    monitor.phase_finish("outer")
    assert sum(told) == PARTS


def test_progress_never_goes_back_or_over_the_whole(monitor: Any, told: list[int]) -> None:
    monitor.phase_start("outer", None, 1)
    for _ in range(3):
        monitor.phase_start("inner", "outer", 2)
        monitor.step_complete("inner", 0)
        monitor.phase_finish("inner")
        monitor.step_complete("outer", 0)
    monitor.phase_finish("outer")
    assert all(done > 0 for done in told)
    assert sum(told) == PARTS


def test_a_phase_never_begun_is_ignored(monitor: Any, told: list[int]) -> None:
    assert monitor.step_complete("unheard of", 0) is True
    monitor.phase_finish("unheard of")
    assert told == []
