"""A small event log, and reports made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hytrec_export.loadtest.peer_figures import length_verdict, ratios

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
    "hytrec_append": ModelTimes(calls=100, executions=100, total_ns=10**9),
    "hytrec_encoder": ModelTimes(calls=100, executions=50, total_ns=6 * 10**8, queue_ns=10**8, compute_ns=5 * 10**8),
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
        test |= {"requests_of_window": 100, "windows": 3, "visitors": 12, "endpoint": "127.0.0.1:8001"}
        return {
            "format_version": 1,
            "made_by": "hytrec-export loadtest",
            "made_at": "2026-01-01T00:00:00+00:00",
            "command": "hytrec-export loadtest --events 'my log.csv'",
            "machine": {"cpu": "a processor", "cores": 2},
            "versions": {"python": "3.11"},
            "test": test,
            "points": points,
            "problems": [],
        }

    return report


@pytest.fixture
def make_peers_report(make_report: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A report of contenders after 100 and 10,000 events; rates by contender, None where it failed after 10,000."""

    def report(**rates: float | None) -> dict[str, Any]:
        load = Load(kind=LoadKind.CONCURRENCY, value=8)
        points = []
        for history in (100, 10_000):
            for name, rate in ({"hytrec": 50.0, "eager": 5.0, "in-process": 80.0} | rates).items():
                failed = rate is None and history > 100
                own = profile(per_s=rate or 5.0)
                windows = [
                    Window(failure="it is gone") if failed else Window(profiles={"hytrec_rank": own}, models=MODELS)
                ] * (1 if failed else 3)
                figures = point_figures(load, windows, max_spread=0.3)
                points.append({"history": history, "contender": name, "requests_of_window": 100, **figures})
        whole = make_report()
        test = {"history_lengths": [100, 10_000], "concurrency": 8, "window_seconds": 3.0, "scenario": "rank"}
        whole["test"] = {**whole["test"], **test}
        del whole["test"]["visitors"], whole["test"]["requests_of_window"]
        scores = [
            {"history": 100, "compared": ["hytrec", "eager"], "largest_difference": 2e-6},
            {"history": 10_000, "compared": ["hytrec"], "largest_difference": None},
        ]
        contenders = [{"name": "hytrec", "model": "f" * 32, "endpoint": "127.0.0.1:8001"}]
        peers = {"contenders": contenders, "points": points, "ratios": ratios(points), "scores": scores}
        return whole | {"points": [], "peers": peers, "problems": length_verdict(points, scores)}

    return report
