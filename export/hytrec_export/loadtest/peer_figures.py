"""What the points of several contenders say together: ratios, score differences, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_export.loadtest.figures import Status
from hytrec_export.loadtest.options import HYTREC

SCORE_BOUND = 1e-3
"""Largest difference of a score between contenders of one model."""
Points = Sequence[Mapping[str, Any]]


def ratios(points: Points) -> list[dict[str, Any]]:
    """Throughput of the server under test over that of each other contender, length by length.

    The ratio is that of the medians; `low` and `high` are the least and the largest of any round, in which each
    contender had one window. All three are None where one of the two failed.
    """
    ours = {point["history"]: point for point in points if point["contender"] == HYTREC}
    found = []
    for point in points:
        if point["contender"] == HYTREC:
            continue
        row: dict[str, Any] = {"history": point["history"], "over": point["contender"]}
        own = ours[point["history"]]
        if Status.FAILED in (own["status"], point["status"]):
            found.append(row | {"ratio": None, "low": None, "high": None})
            continue
        rounds = [
            one["throughput"] / other["throughput"] for one, other in zip(own["windows"], point["windows"], strict=True)
        ]
        ratio = own["throughput_per_s"] / point["throughput_per_s"]
        found.append(row | {"ratio": ratio, "low": min(rounds), "high": max(rounds)})
    return found


def score_difference(scores: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> dict[str, Any]:
    """Largest difference of a candidate's score between any two contenders of one model.

    Args:
        scores: of the same candidates, by contender.
        names: contenders of the model; those without scores are left out.
    """
    compared = [name for name in names if name in scores]
    if len(compared) < 2:
        return {"compared": compared, "largest_difference": None}
    together = np.stack([scores[name].astype(np.float64) for name in compared])
    return {"compared": compared, "largest_difference": float(np.ptp(together, axis=0).max())}


def length_verdict(points: Points, scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """What keeps a comparison from being clean, one line each."""
    lines = [
        f"{point['contender']} after {point['history']:,} events is {point['status']}: {'; '.join(point['notes'])}"
        for point in points
        if point["status"] != Status.OK
    ]
    for row in scores:
        difference = row["largest_difference"]
        if difference is not None and not difference <= SCORE_BOUND:
            lines.append(
                f"{', '.join(row['compared'])} are of one model, but after {row['history']:,} events their scores of "
                f"the same candidates differ by {difference:.2g}, over {SCORE_BOUND:g}"
            )
    return lines
