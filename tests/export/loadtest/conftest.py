"""A small event log, and reports made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hytrec_export.loadtest.comparison import compared_figures
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.figures import Window, point_figures
from hytrec_export.loadtest.options import Load, LoadKind
from hytrec_export.loadtest.profile import Profile
from hytrec_export.loadtest.statistics import ModelTimes


def event_log(lengths: list[int], *, seed: int = 0, gap_s: int = 40) -> EventLog:
    random = np.random.default_rng(seed)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    events = int(offsets[-1])
    times = np.concatenate([10**9 + np.cumsum(random.integers(0, 2 * gap_s, length)) for length in lengths])
    return EventLog(
        offsets=offsets,
        item_keys=np.arange(100, 120),
        items=random.integers(0, 20, events),
        behavior_keys=np.array([b"view", b"buy"]),
        behaviors=random.integers(0, 2, events),
        times=times.astype(np.int64),
        popularity=np.arange(20, 0, -1),
    )


@pytest.fixture
def log() -> EventLog:
    return event_log([1, 2, 5, 9, 30, 31, 40, 100, 3, 7, 12, 64])


@pytest.fixture
def make_log() -> Callable[..., EventLog]:
    return event_log


def profile(*, requests: int = 100, per_s: float = 50.0, latency_ms: float = 10.0, start_s: int = 0) -> Profile:
    sent = (start_s * 10**9 + np.arange(requests) / per_s * 1e9).astype(np.int64)
    latency = latency_ms * (1 + np.arange(requests) % 10 / 10) * 1e6
    return Profile(
        sent_ns=sent,
        answered_ns=sent + latency.astype(np.int64),
        history=np.arange(requests) * 10,
        events=np.full(requests, 2),
    )


MODELS = {
    "hytrec_append": ModelTimes(requests=100, executions=100, total_ns=10**9),
    "hytrec_encoder": ModelTimes(requests=100, executions=50, total_ns=6 * 10**8, queue_ns=10**8, compute_ns=5 * 10**8),
}


@pytest.fixture
def make_window() -> Callable[..., Window]:
    def window(**options: Any) -> Window:
        return Window(profiles={"hytrec_append": profile(**options)}, models=MODELS)

    return window


@pytest.fixture
def make_report(make_window: Callable[..., Window]) -> Callable[..., dict[str, Any]]:
    """A report of concurrencies 1 and 2."""

    def report(**options: Any) -> dict[str, Any]:
        loads = [Load(kind=LoadKind.CONCURRENCY, value=value) for value in (1, 2)]
        points = [point_figures(load, [make_window(**options)] * 3, max_spread=0.3) for load in loads]
        test: dict[str, Any] = {"scenario": "append", "model": "f" * 32, "events": "log.csv", "candidates": None}
        test |= {"requests_per_window": 100, "windows": 3, "users": 12, "endpoint": "127.0.0.1:8001"}
        test["amount"] = "12 users, 3 windows of 100 requests at every load"
        return {
            "format_version": 2,
            "made_by": "hytrec-export loadtest",
            "made_at": "2026-01-01T00:00:00+00:00",
            "command": "hytrec-export loadtest --events 'my log.csv'",
            "machine": {"cpu": "a processor", "cores": 2},
            "versions": {"python": "3.11"},
            "test": test,
            "points": points,
            "compared": compared_figures(points),
            "tables": [],
            "problems": [],
        }

    return report
