"""An event log, and a report of competitors by history length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hytrec_benchmarks.peers.figures import (
    PLOTS,
    attach,
    compared_figures,
    length_verdict,
    ratio_table,
    ratios,
)
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.figures import Window, point_figures
from hytrec_export.loadtest.options import Load, LoadKind
from hytrec_export.loadtest.profile import Profile
from hytrec_export.loadtest.report import Result, make_report
from hytrec_export.loadtest.statistics import ModelTimes


def event_log(lengths: list[int], *, seed: int = 0, gap_s: int = 40) -> EventLog:
    random = np.random.default_rng(seed)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    times = np.concatenate([10**9 + np.cumsum(random.integers(0, 2 * gap_s, length)) for length in lengths])
    return EventLog(
        offsets=offsets,
        item_keys=np.arange(100, 120),
        items=random.integers(0, 20, int(offsets[-1])),
        behavior_keys=np.array([b"view", b"buy"]),
        behaviors=random.integers(0, 2, int(offsets[-1])),
        times=times.astype(np.int64),
        popularity=np.arange(20, 0, -1),
    )


@pytest.fixture
def make_log() -> Callable[..., EventLog]:
    return event_log


def windows(rate: float | None) -> list[Window]:
    """Three windows at a rate, or one that failed."""
    if rate is None:
        return [Window(failure="it is gone")]
    sent = (np.arange(100) / rate * 1e9).astype(np.int64)
    latency = (10 * (1 + np.arange(100) % 10 / 10) * 1e6).astype(np.int64)
    profile = Profile(sent_ns=sent, answered_ns=sent + latency, history=np.arange(100) * 10, events=np.full(100, 2))
    models = {"hytrec_encoder": ModelTimes(requests=100, executions=50, total_ns=10**8, compute_ns=5 * 10**7)}
    return [Window(profiles={"hytrec_rank": profile}, models=models)] * 3


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Competitors after 100 and 10,000 events; rates by competitor, None where it failed after 10,000."""

    def result(**rates: float | None) -> Result:
        load = Load(kind=LoadKind.CONCURRENCY, value=8)
        points: list[dict[str, Any]] = []
        for history in (100, 10_000):
            for name, rate in ({"hytrec": 50.0, "eager": 5.0, "in-process": 80.0} | rates).items():
                own = windows((rate or 5.0) if history == 100 else rate)
                label = {"history": history, "competitor": name, "requests_per_window": 100}
                figures = point_figures(load, own, max_spread=0.3)
                points.append({**label, **figures, "label": f"{history:,} events, {name}"})
        scores: list[dict[str, Any]] = [
            {"history": 100, "compared": ["hytrec", "eager"], "largest_difference": 2e-6},
            {"history": 10_000, "compared": ["hytrec"], "largest_difference": None},
        ]
        found = ratios(points)
        attach(points, found, scores)
        test: dict[str, Any] = {
            "scenario": "rank",
            "model": "f" * 32,
            "events": "log.csv",
            "endpoint": "127.0.0.1:8001",
        }
        test |= {"history_lengths": [100, 10_000], "concurrency": 8, "window_seconds": 3.0, "amount": "three windows"}
        return Result(
            test=test,
            points=points,
            compared=compared_figures(points, found),
            tables=[ratio_table(found, scores)],
            plots=PLOTS,
            problems=length_verdict(points, scores),
        )

    return result


@pytest.fixture
def make_peers_report(make_result: Callable[..., Result]) -> Callable[..., dict[str, Any]]:
    """The report of such a result."""

    def report(**rates: float | None) -> dict[str, Any]:
        return make_report(make_result(**rates), command="typed", machine={"cpu": "a processor", "cores": 2})

    return report
