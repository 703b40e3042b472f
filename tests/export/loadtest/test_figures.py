from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hytrec_export.loadtest.figures import (
    Status,
    Window,
    by_history,
    flat,
    mark_saturation,
    point_figures,
    spread,
    verdict,
)
from hytrec_export.loadtest.options import Load, LoadKind, Scenario
from hytrec_export.loadtest.statistics import ModelTimes, added, difference

MakeWindow = Callable[..., Window]
ONE = Load(kind=LoadKind.CONCURRENCY, value=1)


def figures(windows: list[Window], load: Load = ONE) -> dict[str, Any]:
    return point_figures(load, windows, max_spread=0.3)


def test_a_point_holds_every_figure(make_window: MakeWindow) -> None:
    point = figures([make_window()] * 3)
    assert point["status"] == Status.OK
    assert point["notes"] == []
    assert point["requests"] == 300
    assert point["throughput_per_s"] == pytest.approx(50, rel=0.03)
    assert point["latency_ms"]["p50"] == pytest.approx(14.5, rel=0.01)
    assert set(point["latency_ms"]) == {"p50", "p90", "p95", "p99", "mean", "max"}
    assert point["endpoints"]["hytrec_append"]["requests"] == 300
    encoder = point["models"]["hytrec_encoder"]
    assert encoder["queue_ms"] == pytest.approx(1)
    assert encoder["compute_ms"] == pytest.approx(5)
    assert encoder["mean_batch"] == 2
    assert encoder["share_of_time"] == pytest.approx(0.6)
    assert point["resources"]["gpu_percent_mean"] is None
    assert point["errors"] == 0


def test_a_failed_run_is_told_and_the_others_count(make_window: MakeWindow) -> None:
    point = figures([make_window(), Window(failure="perf_analyzer said: no (exit status 99)")])
    assert point["status"] == Status.FAILED
    assert point["notes"] == ["a run failed: perf_analyzer said: no (exit status 99)"]
    assert point["errors"] == 1
    assert point["requests"] == 100
    assert verdict([point], Scenario.APPEND) == [
        "append at concurrency 1 is failed: a run failed: perf_analyzer said: no (exit status 99)"
    ]


def test_nothing_but_failures_leaves_no_figure() -> None:
    point = figures([Window(failure="x"), Window(profiles={})])
    assert point["status"] == Status.FAILED
    assert "throughput_per_s" not in point
    assert point["notes"] == [
        "a run failed: no request was counted while requests of every kind were in flight; raise --requests",
        "a run failed: x",
    ]


def test_windows_that_differ_are_unstable(make_window: MakeWindow) -> None:
    point = figures([make_window(per_s=50), make_window(per_s=50), make_window(per_s=80)])
    assert point["status"] == Status.UNSTABLE
    assert point["notes"] == ["the windows' throughputs lie 59% apart"]


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"replayed": 2}, "2 requests held events that the server had already"),
        ({"lost": 1}, "1 requests found a user's state damaged, expired or of another model"),
    ],
)
def test_requests_that_were_not_new_are_told(make_window: MakeWindow, changed: dict[str, Any], note: str) -> None:
    window = make_window()
    window.profiles = {name: replace(profile, **changed) for name, profile in window.profiles.items()}
    point = figures([window])
    assert point["status"] == Status.UNSTABLE
    assert point["notes"] == [note]


def test_a_rate_that_is_not_reached_has_no_latencies(make_window: MakeWindow) -> None:
    point = figures([make_window(per_s=50)] * 2, Load(kind=LoadKind.RATE, value=200))
    assert point["status"] == Status.SATURATED
    assert "of 200 requests/s were answered and 0% were sent late" in point["notes"][0]
    assert point["latency_ms"]["p99"] is None
    assert point["by_history"] == []
    assert verdict([point], Scenario.APPEND)


def test_a_rate_at_which_requests_are_late_is_saturated(make_window: MakeWindow) -> None:
    window = make_window(per_s=50)
    window.delayed = 0.2
    assert figures([window], Load(kind=LoadKind.RATE, value=50))["status"] == Status.SATURATED


def test_a_rate_that_is_reached_is_fine(make_window: MakeWindow) -> None:
    assert figures([make_window(per_s=50)], Load(kind=LoadKind.RATE, value=50))["status"] == Status.OK


def test_concurrency_that_brings_nothing_is_saturated(make_window: MakeWindow) -> None:
    points = [
        figures([make_window(per_s=per_s)], Load(kind=LoadKind.CONCURRENCY, value=value))
        for value, per_s in ((1, 50), (2, 90), (4, 91))
    ]
    mark_saturation(points)
    assert [point["status"] for point in points] == [Status.OK, Status.OK, Status.SATURATED]
    assert points[2]["notes"] == [
        "saturated: 1.01 times the throughput of concurrency 2, so the added latency is queueing"
    ]
    assert points[2]["latency_ms"]["p99"] is not None
    assert verdict(points, Scenario.RANK) == []


def test_cost_by_history_is_in_octaves(make_window: MakeWindow) -> None:
    (profile,) = make_window().profiles.values()
    rows = by_history(profile)
    assert sum(row["requests"] for row in rows) == len(profile)
    for row, later in pairwise(rows):
        assert row["events_to"] < later["events_from"]


def test_spread_is_half_the_distance_over_the_median() -> None:
    assert spread([9, 10, 12]) == pytest.approx(0.15)
    assert spread([10]) == 0
    assert spread([0, 0]) == 0


def test_nested_figures_become_rows() -> None:
    assert flat({"a": {"b": 1.0, "c": [2, {"d": None}]}, "e": float("nan")}) == {
        "a.b": 1.0,
        "a.c.0": 2,
        "a.c.1.d": None,
        "e": None,
    }


def test_statistics_are_differences() -> None:
    before = {"a": ModelTimes(requests=5, total_ns=50), "b": ModelTimes(requests=1)}
    after = {
        "a": ModelTimes(requests=8, total_ns=95, failures=1),
        "b": ModelTimes(requests=1),
        "c": ModelTimes(requests=2),
    }
    done = difference(after, before)
    assert done == {"a": ModelTimes(requests=3, total_ns=45, failures=1), "c": ModelTimes(requests=2)}
    assert added([done, {"c": ModelTimes(requests=1)}])["c"]["requests"] == 3


def test_a_server_that_started_anew_is_counted_from_zero() -> None:
    after = {"a": ModelTimes(requests=2, total_ns=5)}
    assert difference(after, {"a": ModelTimes(requests=9, total_ns=90)}) == after


def test_failures_of_steps_are_those_of_their_ensemble(make_window: MakeWindow) -> None:
    window = make_window()
    window.models = {"hytrec_append": ModelTimes(failures=3), "hytrec_encoder": ModelTimes(failures=3)}
    assert window.errors == 3
    assert np.isclose(figures([window])["errors"], 3)
