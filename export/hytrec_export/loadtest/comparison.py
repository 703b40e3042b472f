"""Two reports side by side: ratios, and the figures that are worse by more than the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.profile import LATENCIES

SAME = ("scenario", "model", "events", "candidates", "requests_per_window", "concurrency", "window_seconds")
"""What two tests should have in common; a note says where they differ."""
Figures = dict[str, dict[str, list[float | None]]]
"""Value and spread, by a point's label and the figure's name."""


def compared_figures(points: Sequence[Mapping[str, Any]]) -> Figures:
    """What a report keeps for later comparisons."""
    return {point["label"]: figures_of(point) for point in points}


def figures_of(point: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Throughput and latency percentiles of a point: value and spread by name."""
    values = {"throughput": point.get("throughput_per_s"), **point.get("latency_ms", {})}
    spreads = point.get("spread", {})
    return {name: [values.get(name), spreads.get(name, 0.0)] for name in ("throughput", *LATENCIES)}


def compare(old: Mapping[str, Any], new: Mapping[str, Any], *, old_name: str, noise: float) -> dict[str, Any]:
    """Ratios new over old of every figure that both reports keep under the same label.

    A figure is worse when it is off by more than its band: `noise`, or the windows' spread in both tests together if
    that is larger. Of latencies less is better, of all else more is.

    Args:
        old, new: reports.

    Raises:
        LoadTestError: they have no label in common, or are of different scenarios.
    """
    if old["test"]["scenario"] != new["test"]["scenario"]:
        raise LoadTestError(
            f"{old_name} is of scenario {old['test']['scenario']}, this test of {new['test']['scenario']}; "
            "compare tests of one scenario"
        )
    before, now = old["compared"], new["compared"]
    shared = [label for label in now if label in before]
    if not shared:
        raise LoadTestError(
            f"{old_name} has the loads {', '.join(before)}, this test {', '.join(now)}; compare tests that share a load"
        )
    rows = [
        _row(label, name, before[label][name], figure, noise=noise)
        for label in shared
        for name, figure in now[label].items()
        if name in before[label]
    ]
    notes = [
        f"{name} differs: {old['test'].get(name)} before, {new['test'].get(name)} now"
        for name in SAME
        if old["test"].get(name) != new["test"].get(name)
    ]
    if any(old["machine"].get(name) != new["machine"].get(name) for name in ("cpu", "cores")):
        notes.append("the machines differ, so the ratios reflect them too")
    return {"old": old_name, "noise": noise, "rows": rows, "notes": notes, "regressions": _regressions(rows)}


def _row(
    label: str, name: str, old: Sequence[float | None], new: Sequence[float | None], *, noise: float
) -> dict[str, Any]:
    (before, spread_before), (now, spread_now) = old, new
    band = max(noise, (spread_before or 0.0) + (spread_now or 0.0))
    ratio = now / before if before and now is not None else None
    if ratio is None:
        worse = before is not None and now is None  # a missing figure is worse; one that is new cannot be
    else:
        worse = ratio > 1 + band if name in LATENCIES else ratio < 1 / (1 + band)
    return {"load": label, "figure": name, "before": before, "now": now, "band": band, "ratio": ratio, "worse": worse}


def _regressions(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['figure']} at {row['load']} "
        + ("is missing now" if row["ratio"] is None else f"is {row['ratio']:.2f} times what it was")
        + f" (noise band {row['band']:.0%})"
        for row in rows
        if row["worse"]
    ]
