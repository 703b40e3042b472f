"""From runs to figures: one point of a sweep, and the verdict on a whole sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from hytrec.signature import ENSEMBLES
from hytrec_export.loadtest.options import Load, LoadKind, Scenario
from hytrec_export.loadtest.profile import Profile, joined, latency_figures
from hytrec_export.loadtest.sampling import Usage, joined_usage
from hytrec_export.loadtest.statistics import ModelTimes, added, mean_times

SUSTAINED = 0.95
"""Below this share of the request rate a point is saturated (three deviations of a Poisson count allowed for)."""
MAX_DELAYED = 0.1
"""Above this share of requests sent late a point is saturated: no client thread was free to send them."""
MIN_GAIN = 1.05
"""A concurrency with less than this times the throughput of a lower one is saturated."""
NOTHING_COUNTED = "no request was counted while requests of every kind were in flight; raise --requests"
_PUBLIC = frozenset(ensemble.name for ensemble in ENSEMBLES)


class Status(StrEnum):
    """Whether a point's figures are valid."""

    OK = "ok"
    SATURATED = "saturated"
    """the server is at its limit; at a given rate latencies are meaningless then, and left out"""
    UNSTABLE = "unstable"
    """the windows differ too much"""
    FAILED = "failed"
    """perf_analyzer ended without a result"""


@dataclass(kw_only=True, eq=False)
class Window:
    """One run of perf_analyzer, or of several at once.

    Args:
        profiles: by ensemble.
        models: what every model did meanwhile.
        failure: what perf_analyzer said when it failed, or why its result cannot be used.
        delayed: share of the requests sent late.
    """

    profiles: Mapping[str, Profile] = field(default_factory=dict)
    models: Mapping[str, ModelTimes] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    failure: str | None = None
    delayed: float = 0.0

    @property
    def requests(self) -> int:
        """Counted requests; 0 where one of several runs has none."""
        counted = [len(profile) for profile in self.profiles.values()]
        return sum(counted) if counted and all(counted) else 0

    @property
    def errors(self) -> int:
        """Failed requests of the ensembles; perf_analyzer aborts on the first it sees."""
        counted = sum(times["failures"] for name, times in self.models.items() if name in _PUBLIC)
        return max(counted, int(self.failure is not None))


def point_figures(load: Load, windows: Sequence[Window], *, max_spread: float) -> dict[str, Any]:
    """Everything measured at one point, as plain values."""
    good = [window for window in windows if window.failure is None and window.requests]
    failures = sorted({window.failure or NOTHING_COUNTED for window in windows if window not in good})
    point: dict[str, Any] = {
        "label": str(load),
        "load": {"kind": load.kind.value, "value": load.value},
        "status": Status.FAILED.value,
        "notes": [f"a run failed: {failure}" for failure in failures],
        "windows_wanted": len(windows),
        "errors": sum(window.errors for window in windows),
    }
    if not good:
        return point
    whole = [joined(list(window.profiles.values())) for window in good]
    everything = joined(whole)
    figures = [{"throughput": one.throughput, **latency_figures(one.latency_ms)} for one in whole]
    for own in figures:
        del own["max"]
    point |= {
        **_traffic(whole),
        "events": int(everything.events.sum()),
        "replayed": everything.replayed,
        "states_lost": everything.lost,
        "delayed_share": max(window.delayed for window in good),
        "windows": figures,
        "spread": {name: spread([one[name] for one in figures]) for name in figures[0]},
        "endpoints": {
            name: _traffic([window.profiles[name] for window in good if name in window.profiles])
            for name in sorted({name for window in good for name in window.profiles})
        },
        "models": _models(good),
        "resources": joined_usage([window.usage for window in good]).to_dict(),
        "by_history": by_history(everything),
    }
    point["status"], notes = _status(point, load, failed=len(windows) - len(good), max_spread=max_spread)
    point["notes"] += notes
    if point["status"] == Status.SATURATED:
        _leave_out_latencies(point)
    return point


def spread(values: Sequence[float]) -> float:
    """Half the distance between the largest and the smallest, over the median; 0 for one value."""
    middle = float(np.median(values))
    return float(np.ptp(values)) / 2 / middle if middle else 0.0


def _status(point: dict[str, Any], load: Load, *, failed: int, max_spread: float) -> tuple[str, list[str]]:
    notes = []
    if point["replayed"]:
        notes.append(f"{point['replayed']} requests held events that the server had already")
    if point["states_lost"]:
        notes.append(f"{point['states_lost']} requests found a user's state damaged, expired or of another model")
    if (apart := 2 * point["spread"]["throughput"]) > max_spread:
        notes.append(f"the windows' throughputs lie {apart:.0%} apart")
    status = Status.UNSTABLE if notes else Status.OK
    if load.kind is LoadKind.RATE:
        reached = point["throughput_per_s"] / load.value
        if reached < SUSTAINED - 3 / math.sqrt(point["requests"]) or point["delayed_share"] > MAX_DELAYED:
            notes.append(
                f"saturated: {point['throughput_per_s']:.1f} of {load.value:g} requests/s were answered and "
                f"{point['delayed_share']:.0%} were sent late; latencies would only reflect the length of the run"
            )
            status = Status.SATURATED
    return (Status.FAILED if failed else status).value, notes


def _leave_out_latencies(point: dict[str, Any]) -> None:
    point["latency_ms"] = dict.fromkeys(point["latency_ms"])
    for endpoint in point["endpoints"].values():
        endpoint["latency_ms"] = dict.fromkeys(endpoint["latency_ms"])
    point["by_history"] = []


def mark_saturation(points: Sequence[dict[str, Any]]) -> None:
    """Mark the concurrencies with no more throughput than a lower one; their added latency is queueing."""
    best: dict[str, Any] | None = None
    for point in points:
        usable = point["status"] != Status.FAILED and "throughput_per_s" in point
        if not usable or point["load"]["kind"] != LoadKind.CONCURRENCY:
            continue
        if best is not None and point["throughput_per_s"] < MIN_GAIN * best["throughput_per_s"]:
            ratio = point["throughput_per_s"] / best["throughput_per_s"]
            point["notes"].append(
                f"saturated: {ratio:.2f} times the throughput of concurrency {best['load']['value']:g}, "
                "so the added latency is queueing"
            )
            if point["status"] == Status.OK:
                point["status"] = Status.SATURATED.value
        if best is None or point["throughput_per_s"] > best["throughput_per_s"]:
            best = point


def _traffic(profiles: Sequence[Profile]) -> dict[str, Any]:
    """Of several windows: requests, the median of the throughputs, latencies."""
    whole = joined(profiles)
    return {
        "requests": len(whole),
        "throughput_per_s": float(np.median([one.throughput for one in profiles])),
        "latency_ms": latency_figures(whole.latency_ms),
    }


def _models(windows: Sequence[Window]) -> dict[str, Any]:
    """Mean times of every model, and of an ensemble's time the share that each step takes."""
    sums = added(window.models for window in windows)
    busy_ns = {name: times["queue_ns"] + times["compute_ns"] for name, times in sums.items() if name not in _PUBLIC}
    # The last step's own clean-up ends after the ensemble's response, so the steps may add up to a little more.
    whole_ns = max(sum(busy_ns.values()), sum(times["total_ns"] for name, times in sums.items() if name in _PUBLIC))
    found = {name: mean_times(times) for name, times in sums.items()}
    for name, own_ns in busy_ns.items():
        if whole_ns:
            found[name]["share_of_time"] = own_ns / whole_ns
    return found


def by_history(profile: Profile) -> list[dict[str, float | int]]:
    """Latency by the user's events after the request, in power-of-two buckets."""
    lengths = np.maximum(profile.history + profile.events, 1)
    buckets = np.floor(np.log2(lengths)).astype(np.int64)
    rows = []
    for bucket in np.unique(buckets).tolist():
        latency_ms = profile.latency_ms[buckets == bucket]
        rows.append(
            {
                "events_from": 2**bucket,
                "events_to": 2 ** (bucket + 1) - 1,
                "requests": len(latency_ms),
                "mean_new_events": float(profile.events[buckets == bucket].mean()),
                "p50": float(np.percentile(latency_ms, 50)),
                "p99": float(np.percentile(latency_ms, 99)),
            }
        )
    return rows


def verdict(points: Sequence[Mapping[str, Any]], scenario: Scenario) -> list[str]:
    """What keeps a sweep from being clean, one line each; a concurrency sweep may end in saturation."""
    lines = []
    for point in points:
        expected = point["status"] == Status.SATURATED and point["load"]["kind"] == LoadKind.CONCURRENCY
        if point["status"] != Status.OK and not expected:
            notes = "; ".join(point["notes"])
            lines.append(f"{scenario.value} at {point['label']} is {point['status']}: {notes}")
    return lines


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float | int | str | None]:
    """Nested figures by dotted name; lists by place."""
    found: dict[str, float | int | str | None] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}.")
        elif isinstance(value, (list, tuple)):
            found |= flat({str(place): one for place, one in enumerate(value)}, f"{path}.")
        elif isinstance(value, float) and not math.isfinite(value):
            found[path] = None
        else:
            found[path] = value
    return found
