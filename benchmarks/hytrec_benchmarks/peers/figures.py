"""Figures over several competitors: ratios, score differences, problems, and the report's table and plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_benchmarks.peers.options import HYTREC
from hytrec_export.loadtest.comparison import Figures, figures_of
from hytrec_export.loadtest.figures import Status
from hytrec_export.loadtest.plots import Plot

SCORE_BOUND = 1e-3
"""Maximum score difference between competitors of one model."""
Points = Sequence[Mapping[str, Any]]


def ratios(points: Points) -> list[dict[str, Any]]:
    """Throughput of the server under test over that of each other competitor, length by length.

    The ratio is that of the medians; `low` and `high` are the minimum and maximum over the rounds, in which each
    competitor had one window. All three are None where one of the two failed.
    """
    ours = {point["history"]: point for point in points if point["competitor"] == HYTREC}
    found = []
    for point in points:
        own = ours[point["history"]]
        if point is own:
            continue
        row = {"history": point["history"], "over": point["competitor"], "ratio": None, "low": None, "high": None}
        if Status.FAILED not in (own["status"], point["status"]):
            windows = zip(own["windows"], point["windows"], strict=True)
            rounds = [one["throughput"] / other["throughput"] for one, other in windows]
            ratio = own["throughput_per_s"] / point["throughput_per_s"]
            row |= {"ratio": ratio, "low": min(rounds), "high": max(rounds)}
        found.append(row)
    return found


def score_difference(scores: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> dict[str, Any]:
    """Largest difference of a candidate's score between any two competitors of one model.

    Args:
        scores: of the same candidates, by competitor.
        names: competitors of the model; those without scores are left out.
    """
    compared = [name for name in names if name in scores]
    if len(compared) < 2:
        return {"compared": compared, "largest_difference": None}
    together = np.stack([scores[name].astype(np.float64) for name in compared])
    return {"compared": compared, "largest_difference": float(np.ptp(together, axis=0).max())}


def length_verdict(points: Points, scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Problems of a comparison, one line each."""
    lines = [
        f"{point['competitor']} after {point['history']:,} events is {point['status']}: {'; '.join(point['notes'])}"
        for point in points
        if point["status"] != Status.OK
    ]
    for row in scores:
        difference = row["largest_difference"]
        if difference is not None and not difference <= SCORE_BOUND:
            lines.append(
                f"{', '.join(row['compared'])} have one model, but after {row['history']:,} events their scores of "
                f"the same candidates differ by {difference:.2g}, over {SCORE_BOUND:g}"
            )
    return lines


def attach(points: Sequence[dict[str, Any]], ratio_rows: Points, scores: Points) -> None:
    """Give the server's own points their ratios and score differences, so that every file of the report has them."""
    for point in points:
        if point["competitor"] == HYTREC:
            point["over"] = {row["over"]: row for row in ratio_rows if row["history"] == point["history"]}
            (point["scores"],) = (row for row in scores if row["history"] == point["history"])


def ratio_table(ratio_rows: Points, scores: Points) -> dict[str, Any]:
    """The report's table: by history length, throughput over each other competitor's, and the score difference."""
    others = list(dict.fromkeys(row["over"] for row in ratio_rows))
    cells = {(row["history"], row["over"]): _ratio(row) for row in ratio_rows}
    rows = [
        [
            f"{row['history']:,}",
            *(cells[row["history"], name] for name in others),
            "n/a" if row["largest_difference"] is None else f"{row['largest_difference']:.1g}",
        ]
        for row in scores
    ]
    return {
        "title": "Throughput over that of others (minimum to maximum of a round)",
        "note": "The same requests for each, in windows that take turns. "
        "The last column compares the scores of those that serve the same model.",
        "head": ["events before", *(f"over {name}" for name in others), "scores differ by"],
        "rows": rows,
    }


def _ratio(row: Mapping[str, Any]) -> str:
    return "n/a" if row["ratio"] is None else f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def compared_figures(points: Points, ratio_rows: Points) -> Figures:
    """For `--compare`: the server's own figures, and its ratios; a peer's own figures are none of its regressions."""
    found = {f"{point['history']:,} events": figures_of(point) for point in points if point["competitor"] == HYTREC}
    for row in ratio_rows:
        spread = (row["high"] - row["low"]) / 2 / row["ratio"] if row["ratio"] else 0.0
        found[f"{row['history']:,} events"][f"over {row['over']}"] = [row["ratio"], spread]
    return found


def _draw_throughput(axes: Any, shown: Points) -> None:
    """Throughput over history length, one line a competitor."""
    for name in dict.fromkeys(point["competitor"] for point in shown):
        own = sorted((point["history"], point["throughput_per_s"]) for point in shown if point["competitor"] == name)
        axes.plot(*zip(*own, strict=True), "o-", label=name, linewidth=3 if name == HYTREC else 1.5)
    axes.set(
        xscale="log", yscale="log", xlabel="events of the user before the request", ylabel="throughput, requests/s"
    )
    lengths = sorted({point["history"] for point in shown})
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.set_title(f"throughput at concurrency {shown[0]['load']['value']:g}")
    axes.grid(alpha=0.3)
    axes.legend()


PLOTS = {"throughput_by_history": Plot(lambda point: bool(point.get("throughput_per_s")), _draw_throughput)}
