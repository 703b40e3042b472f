"""Hit rate, NDCG and AUC of one target among the full catalogue.

Equal scores: a metric is its mean over all orders of the items that score like the target. So neither a model that
gives everything the same score nor a baseline full of zeros is flattered or punished, however the items are numbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hytrec.data.histories import Int64Array
from hytrec.errors import EvaluationError

__all__ = ["DEFAULT_KS", "RankingMetrics"]

DEFAULT_KS = (10, 50, 500)

FloatArray = npt.NDArray[np.float64]


class RankingMetrics:
    """Ranks of users' targets, gathered batch by batch.

    Args:
        ks: list lengths of hr@k and ndcg@k.
    """

    def __init__(self, ks: Sequence[int] = DEFAULT_KS) -> None:
        """Raises: EvaluationError: no k, or one under 1."""
        if not ks or min(ks) < 1:
            raise EvaluationError(f"list lengths are {list(ks)}; give one or more numbers of at least 1")
        self.ks = tuple(sorted(set(ks)))
        self.users = 0
        self._scored_users = 0
        self._above: list[Int64Array] = []
        self._equal: list[Int64Array] = []
        self._auc = 0.0
        ranks = np.arange(1, self.ks[-1] + 1)
        self._gain_of_first = np.concatenate(([0.0], np.cumsum(1 / np.log2(ranks + 1))))  # (max k + 1,)

    def add(self, scores: npt.NDArray[Any], targets: Int64Array, seen: Int64Array | None = None) -> None:
        """Count a batch of users whose whole catalogue was scored.

        Args:
            scores: (B, I) float; column r - 1 is the score of item row r. May hold -inf, never NaN.
            targets: (B,) int64 item rows, 1..I.
            seen: (B, X) int64 item rows taken out of the ranking, padded with 0; I + 1 is ignored.

        Raises:
            EvaluationError: shapes that do not fit, a NaN, a target outside 1..I or among the seen.
        """
        users, items = _checked_shape(scores, targets)
        if np.isnan(scores).any():
            user = int(np.isnan(scores).any(axis=1).argmax())
            raise EvaluationError(
                f"scores of user {user} of the batch hold NaN; the model has diverged, train it again"
            )
        if users and not (targets.min() >= 1 and targets.max() <= items):
            wrong = targets[(targets < 1) | (targets > items)][0]
            raise EvaluationError(f"target row {wrong} is outside the catalogue; rows are 1 to {items}")
        everyone = np.arange(users)
        ranked = np.ones((users, items + 2), dtype=bool)
        if seen is not None:
            ranked[everyone[:, None], seen] = False
        ranked = ranked[:, 1:-1]
        if not ranked[everyone, targets - 1].all():
            user = int((~ranked[everyone, targets - 1]).argmax())
            raise EvaluationError(
                f"target of user {user} of the batch is among the seen items; allow repeats or drop it"
            )
        target_scores = scores[everyone, targets - 1][:, None]
        above = ((scores > target_scores) & ranked).sum(axis=1)
        equal = ((scores == target_scores) & ranked).sum(axis=1)
        self._add_ranks(above, equal)
        rivals = ranked.sum(axis=1) - 1
        below = rivals - above - (equal - 1)
        self._auc += float(np.sum(np.where(rivals > 0, (below + (equal - 1) / 2) / np.maximum(rivals, 1), 0.5)))
        self._scored_users += users

    def add_lists(self, rows: Int64Array, targets: Int64Array) -> None:
        """Count a batch of users who got a list (retrieve, then rerank); a target outside it is a miss at every k.

        Args:
            rows: (B, R) int64 item rows, best first, 0 where the list is shorter.
            targets: (B,) int64 item rows.

        Raises:
            EvaluationError: shapes that do not fit.
        """
        _checked_shape(rows, targets)
        found = rows == targets[:, None]
        first = np.where(found.any(axis=1), found.argmax(axis=1), self.ks[-1])
        self._add_ranks(first, np.ones_like(first))

    def _add_ranks(self, above: Int64Array, equal: Int64Array) -> None:
        """Targets with `above` (B,) items before them, in groups of `equal` (B,) items of the same score."""
        self.users += above.size
        self._above.append(above)
        self._equal.append(equal)

    def of_users(self, k: int) -> tuple[FloatArray, FloatArray]:
        """hr@k and ndcg@k of every user in the order they were added: two of (users,) float64 in [0, 1].

        Args:
            k: at most the longest list.
        """
        above, equal = (np.concatenate([np.empty(0, np.int64), *parts]) for parts in (self._above, self._equal))
        first, last = np.minimum(above, k), np.minimum(above + equal, k)
        return (last - first) / equal, (self._gain_of_first[last] - self._gain_of_first[first]) / equal

    def result(self) -> dict[str, float]:
        """Means of hr@k and ndcg@k for every k, and of auc where every user was scored on the whole catalogue.

        All are in [0, 1]; "users" is the number of users that they are over.

        Raises:
            EvaluationError: no user was counted.
        """
        if not self.users:
            raise EvaluationError(
                "no user can be evaluated; the log needs users of three events or more whose last item is new to them, "
                "or --repeats allow"
            )
        result: dict[str, float] = {"users": self.users}
        for k in self.ks:
            hits, gains = self.of_users(k)
            result[f"hr@{k}"], result[f"ndcg@{k}"] = float(hits.mean()), float(gains.mean())
        if self._scored_users == self.users:
            result["auc"] = self._auc / self.users
        return result


def _checked_shape(values: npt.NDArray[Any], targets: Int64Array) -> tuple[int, int]:
    if values.ndim != 2 or targets.shape != values.shape[:1]:
        raise EvaluationError(
            f"a batch of shape {values.shape} does not fit targets of shape {targets.shape}; "
            "they are (users, items) and (users,)"
        )
    return values.shape[0], values.shape[1]
