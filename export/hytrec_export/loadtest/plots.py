"""Plots of a load test, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hytrec.signature import ENSEMBLES, FUSED_MODELS, GRAPHS, STATE_LOAD, STATE_SAVE
from hytrec_export.loadtest.options import LoadKind
from hytrec_export.optional import require

Points = Sequence[Mapping[str, Any]]


class Plot(NamedTuple):
    """A plot of the points that have something to show.

    Args:
        shows: whether a point does.
        draw: onto matplotlib axes, one such point at least.
    """

    shows: Callable[[Mapping[str, Any]], bool]
    draw: Callable[[Any, Points], None]


_PUBLIC = frozenset(ensemble.name for ensemble in ENSEMBLES)
_ORDER = {model.name: place for place, model in enumerate((*FUSED_MODELS, STATE_LOAD, *GRAPHS, STATE_SAVE))}
_SIZE = (7.0, 4.4)
_DPI = 110


def draw_plots(folder: Path, points: Points, plots: Mapping[str, Plot]) -> list[Path]:
    """Write every plot of a report as PNG; one that has nothing to show is left out.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require("matplotlib", extra="loadtest").use("Agg")
    figure_class = require("matplotlib.figure", extra="loadtest").Figure
    written = []
    for name, plot in plots.items():
        if shown := [point for point in points if plot.shows(point)]:
            figure = figure_class(figsize=_SIZE, layout="constrained")
            plot.draw(figure.subplots(), shown)
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=_DPI)
    return written


def _load_name(points: Points) -> str:
    return "concurrency" if points[0]["load"]["kind"] == LoadKind.CONCURRENCY else "request rate"


def _has_latency(point: Mapping[str, Any]) -> bool:
    return point.get("latency_ms", {}).get("p99") is not None


def _throughput_and_p99(axes: Any, shown: Points) -> None:
    x = [point["throughput_per_s"] for point in shown]
    y = [point["latency_ms"]["p99"] for point in shown]
    axes.plot(x, y, "o-")
    for point, left, top in zip(shown, x, y, strict=True):
        note = " saturated" if point["status"] == "saturated" else ""
        axes.annotate(f"{point['load']['value']:g}{note}", (left, top), textcoords="offset points", xytext=(5, 5))
    axes.set(xlabel="throughput, requests/s", ylabel="p99, ms", title=f"throughput and p99, by {_load_name(shown)}")
    axes.set_ylim(0, 1.15 * max(y))
    axes.set_xlim(0, 1.25 * max(x))  # room for the notes


def _latency_by_load(axes: Any, shown: Points) -> None:
    x = [point["load"]["value"] for point in shown]
    for name in ("p50", "p90", "p95", "p99"):
        axes.plot(x, [point["latency_ms"][name] for point in shown], "o-", label=name)
    axes.set(xlabel=_load_name(shown), ylabel="ms", title="latency as perf_analyzer sees it")
    axes.set_ylim(bottom=0)
    axes.legend()


def _time_by_step(axes: Any, shown: Points) -> None:
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


def _cost_by_history(axes: Any, shown: Points) -> None:
    for point in shown:
        rows = point["by_history"]
        x = [np.sqrt(row["events_from"] * row["events_to"]) for row in rows]
        axes.plot(x, [row["p50"] for row in rows], "o-", label=f"p50 at {point['load']['value']:g}")
    axes.set_xscale("log")
    axes.set(xlabel="events of the user", ylabel="ms", title="latency by history length")
    axes.set_ylim(bottom=0)
    axes.legend(title=_load_name(shown))


SWEEP_PLOTS = {
    "throughput_and_p99": Plot(_has_latency, _throughput_and_p99),
    "latency_by_load": Plot(_has_latency, _latency_by_load),
    "time_by_step": Plot(lambda point: bool(point.get("models")), _time_by_step),
    "cost_by_history": Plot(lambda point: bool(point.get("by_history")), _cost_by_history),
}
