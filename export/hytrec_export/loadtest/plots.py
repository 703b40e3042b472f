"""Plots of a load test, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hytrec.signature import ENSEMBLES, FUSED, GRAPHS, STATE_LOAD, STATE_SAVE
from hytrec_export.loadtest.options import LoadKind
from hytrec_export.optional import require

Points = Sequence[Mapping[str, Any]]
Draw = Callable[[Any, Points], bool]
"""Matplotlib axes and points -> whether something was drawn."""
_PUBLIC = frozenset(ensemble.name for ensemble in ENSEMBLES)
_ORDER = {model.name: place for place, model in enumerate((FUSED, STATE_LOAD, *GRAPHS, STATE_SAVE))}
_SIZE = (7.0, 4.4)
_DPI = 110


def draw_plots(folder: Path, points: Points, plots: Mapping[str, Draw]) -> list[Path]:
    """Write every plot of a report as PNG; one that has nothing to show is left out.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require("matplotlib", extra="loadtest").use("Agg")
    figure_class = require("matplotlib.figure", extra="loadtest").Figure
    written = []
    for name, draw in plots.items():
        figure = figure_class(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        if draw(axes, points):
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=_DPI)
            written.append(path)
    return written


def _load_name(points: Points) -> str:
    return "concurrency" if points[0]["load"]["kind"] == LoadKind.CONCURRENCY else "request rate"


def _with_latency(points: Points) -> list[Mapping[str, Any]]:
    return [point for point in points if point.get("latency_ms", {}).get("p99") is not None]


def _throughput_and_p99(axes: Any, points: Points) -> bool:
    shown = _with_latency(points)
    if not shown:
        return False
    x = [point["throughput_per_s"] for point in shown]
    y = [point["latency_ms"]["p99"] for point in shown]
    axes.plot(x, y, "o-")
    for point, left, top in zip(shown, x, y, strict=True):
        note = " saturated" if point["status"] == "saturated" else ""
        axes.annotate(f"{point['load']['value']:g}{note}", (left, top), textcoords="offset points", xytext=(5, 5))
    axes.set(xlabel="throughput, requests/s", ylabel="p99, ms", title=f"throughput and p99, by {_load_name(shown)}")
    axes.set_ylim(0, 1.15 * max(y))
    axes.set_xlim(0, 1.25 * max(x))  # room for the notes
    return True


def _latency_by_load(axes: Any, points: Points) -> bool:
    shown = _with_latency(points)
    if not shown:
        return False
    x = [point["load"]["value"] for point in shown]
    for name in ("p50", "p90", "p95", "p99"):
        axes.plot(x, [point["latency_ms"][name] for point in shown], "o-", label=name)
    axes.set(xlabel=_load_name(shown), ylabel="ms", title="latency as perf_analyzer sees it")
    axes.set_ylim(bottom=0)
    axes.legend()
    return True


def _time_by_step(axes: Any, points: Points) -> bool:
    shown = [point for point in points if point.get("models")]
    if not shown:
        return False
    seen = {name for point in shown for name in point["models"] if name not in _PUBLIC}
    steps = sorted(seen, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))
    places = np.arange(len(shown))
    bottom = np.zeros(len(shown))
    for step in steps:
        share = np.array([point["models"].get(step, {}).get("share_of_time", 0.0) for point in shown]) * 100
        axes.bar(places, share, 0.6, bottom=bottom, label=step.removeprefix("hytrec_"))
        bottom += share
    axes.bar(places, np.maximum(0, 100 - bottom), 0.6, bottom=bottom, label="between the steps", color="lightgray")
    axes.set_xticks(places, [f"{point['load']['value']:g}" for point in shown])
    axes.set(
        xlabel=_load_name(shown), ylabel="% of the server's time", title="where a request's time on the server goes"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return True


def _cost_by_history(axes: Any, points: Points) -> bool:
    shown = [point for point in points if point.get("by_history")]
    for point in shown:
        rows = point["by_history"]
        x = [np.sqrt(row["events_from"] * row["events_to"]) for row in rows]
        axes.plot(x, [row["p50"] for row in rows], "o-", label=f"p50 at {point['load']['value']:g}")
    if not shown:
        return False
    axes.set_xscale("log")
    axes.set(xlabel="events of the user", ylabel="ms", title="latency by history length")
    axes.set_ylim(bottom=0)
    axes.legend(title=_load_name(shown))
    return True


SWEEP_PLOTS: dict[str, Draw] = {
    "throughput_and_p99": _throughput_and_p99,
    "latency_by_load": _latency_by_load,
    "time_by_step": _time_by_step,
    "cost_by_history": _cost_by_history,
}
