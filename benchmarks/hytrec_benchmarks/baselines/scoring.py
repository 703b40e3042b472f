"""How a learned baseline is measured: every user of a part scored on the whole catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hytrec.data.histories import Int64Array
from hytrec.data.split import Evaluation
from hytrec.evaluation.metrics import DEFAULT_KS, RankingMetrics

__all__ = ["Learned", "rank", "validation_gain"]

Scores = npt.NDArray[np.float32]
_USERS = 256


class Learned(Protocol):
    """A trained baseline."""

    def scores(self, part: Evaluation, indices: Int64Array) -> Scores:
        """Of some users of a part, by their indices in it (B,): (B, I); column r - 1 is the score of item row r."""
        ...


def rank(baseline: Learned, part: Evaluation, *, ks: tuple[int, ...] = DEFAULT_KS) -> RankingMetrics:
    """Every user's rank, users in their order."""
    metrics = RankingMetrics(ks)
    for indices in _some(len(part)):
        batch = part.batch(indices)
        metrics.add(baseline.scores(part, indices), batch.targets, batch.seen)
    return metrics


def validation_gain(baseline: Learned, part: Evaluation) -> float:
    """NDCG@10, by which every choice is made."""
    return rank(baseline, part, ks=(10,)).result()["ndcg@10"]


def _some(users: int) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, users, _USERS):
        yield np.arange(start, min(start + _USERS, users))
