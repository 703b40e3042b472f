"""Where a model wins: its lift over a baseline by history length, time since the last event and item popularity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hytrec.data.histories import Histories, Int64Array
from hytrec.data.split import Evaluation
from hytrec_benchmarks.quality.paired import Estimate, ratio

__all__ = ["GROUPINGS", "Group", "group_lifts"]

FloatArray = npt.NDArray[np.float64]

_HOUR, _DAY = 3_600, 86_400
GROUPINGS: dict[str, dict[int, str]] = {
    "events in the history": {
        0: "under 5",
        5: "5 to 9",
        10: "10 to 19",
        20: "20 to 49",
        50: "50 to 99",
        100: "100 and more",
    },
    "time since the last event": {
        0: "none",
        1: "under an hour",
        _HOUR: "an hour to a day",
        _DAY: "1 to 7 days",
        7 * _DAY: "7 to 30 days",
        30 * _DAY: "30 to 180 days",
        180 * _DAY: "180 days and more",
    },
    "training events of the item": {
        0: "none",
        1: "1 to 4",
        5: "5 to 9",
        10: "10 to 19",
        20: "20 to 49",
        50: "50 to 99",
        100: "100 and more",
    },
}
"""Lower edge of every group, and its name."""
_MIN_USERS = 20
"""A group of fewer is left out: its ratio says nothing."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Users of a kind.

    Args:
        ours, theirs: mean NDCG@10 of model and baseline.
        lift: one over the other.
    """

    name: str
    users: int
    ours: float
    theirs: float
    lift: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return vars(self) | {"lift": self.lift._asdict() if self.theirs else None}


def group_lifts(test: Evaluation, known: Histories, ours: FloatArray, theirs: FloatArray) -> dict[str, list[Group]]:
    """Groups of at least 20 users by grouping, in the order of `GROUPINGS`.

    Args:
        known: the training part, which says how popular an item is.
        ours, theirs: NDCG@10 of every user of the test, (users,).
    """
    values = dict(zip(GROUPINGS, _values(test, known), strict=True))
    return {name: list(_groups(values[name], edges, ours, theirs)) for name, edges in GROUPINGS.items()}


def _values(test: Evaluation, known: Histories) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Length of the history, seconds since its last event and training events of the target, of every user."""
    firsts = test.histories.offsets[test.users]
    counts = np.bincount(known.item_rows, minlength=int(test.targets.max(initial=0)) + 1)
    return test.events - firsts, test.now - test.histories.times[test.events - 1], counts[test.targets]


def _groups(values: Int64Array, edges: dict[int, str], ours: FloatArray, theirs: FloatArray) -> list[Group]:
    places = np.searchsorted(list(edges), values, side="right") - 1
    found = []
    for place, name in enumerate(edges.values()):
        own = places == place
        if own.sum() >= _MIN_USERS:
            found.append(
                Group(
                    name=name,
                    users=int(own.sum()),
                    ours=float(ours[own].mean()),
                    theirs=float(theirs[own].mean()),
                    lift=ratio(ours[own], theirs[own]),
                )
            )
    return found
