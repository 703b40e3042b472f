"""Baselines: most-popular, item-kNN and proximity kNN. No learning, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from hytrec.data.histories import Histories, History, Int64Array
from hytrec.data.proximity import proximity
from hytrec.data.split import Evaluation
from hytrec.errors import ConfigError
from hytrec.evaluation.metrics import DEFAULT_KS, RankingMetrics

__all__ = [
    "Baseline",
    "ItemKNN",
    "MostPopular",
    "ProximityKNN",
    "measure",
    "ranked",
    "scores_of_past",
]

Scores = npt.NDArray[np.float32]

_BLOCK = 1024


class Baseline(Protocol):
    """Anything that scores the whole catalogue."""

    def scores(self, histories: Sequence[History]) -> Scores:
        """(B, I) float32; column r - 1 is the score of item row r."""
        ...


class MostPopular:
    """Every item scores its number of training events.

    Args:
        histories: the training part.
        items: I.
    """

    def __init__(self, histories: Histories, *, items: int) -> None:
        self._counts = _counts(histories.item_rows, items)

    def scores(self, histories: Sequence[History]) -> Scores:
        """(B, I) float32, the same for everybody."""
        return np.broadcast_to(self._counts, (len(histories), self._counts.size))


class _NearToThePast:
    """Scores items by similarities to the user's past items; those similar to none come last, by popularity."""

    half_life: float | None
    _similarities: sparse.csr_matrix
    _by_popularity: Scores

    def with_half_life(self, half_life: float | None) -> Self:
        """The same similarities read with another half-life."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, half_life=half_life)
        return other

    def scores(self, histories: Sequence[History]) -> Scores:
        """(B, I) float32, over 0 where the past speaks for an item, else in [-1, 0)."""
        scores = scores_of_past(histories, self._similarities, half_life=self.half_life)
        return np.where(scores > 0, scores, self._by_popularity)


class ItemKNN(_NearToThePast):
    """An item's score is the sum of its similarities to the user's past items (Sarwar et al., WWW 2001).

    The similarity is the cosine of the binary user columns of two items, shrunk: common / (sqrt(n_i n_j) + shrinkage).
    Items similar to nothing in the past come last, by popularity.

    Args:
        histories: the training part.
        items: I.
        neighbors: how many similar items count for an item (more where the last ones are equally similar).
        shrinkage: at least 0; takes weight from pairs seen together by few users.
        half_life: events after which a past item counts half; None counts the whole past alike.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        items: int,
        neighbors: int = 200,
        shrinkage: float = 10.0,
        half_life: float | None = None,
    ) -> None:
        """Raises: ConfigError: a number out of its range."""
        if neighbors < 1:
            raise ConfigError(f"neighbors is {neighbors}; it must be at least 1")
        if shrinkage < 0:
            raise ConfigError(f"shrinkage is {shrinkage}; it must be at least 0")
        if half_life is not None and half_life <= 0:
            raise ConfigError(f"half_life is {half_life}; it must be over 0 events, or None for the whole past alike")
        self.neighbors = neighbors
        self.shrinkage = shrinkage
        self.half_life = half_life
        self._similarities = _similarities(histories, items=items, neighbors=neighbors, shrinkage=shrinkage)
        self._by_popularity = _below_zero(_counts(histories.item_rows, items))


class ProximityKNN(_NearToThePast):
    """An item's score is the sum of its proximities to the user's past items, which fade with a half-life.

    See `hytrec.data.proximity`. Items near to nothing in the past come last, by popularity.

    Args:
        histories: the training part.
        items: I.
        neighbors: how many items near to it count for an item.
        half_life: events after which a past item counts half.
    """

    def __init__(self, histories: Histories, *, items: int, neighbors: int = 1000, half_life: float = 2.0) -> None:
        """Raises: ConfigError: a number out of its range."""
        if neighbors < 1:
            raise ConfigError(f"neighbors is {neighbors}; it must be at least 1")
        if half_life <= 0:
            raise ConfigError(f"half_life is {half_life}; it must be over 0 events")
        self.neighbors = neighbors
        self.half_life = half_life
        self._similarities = proximity(histories, items=items, keep=neighbors).T.tocsr()
        self._by_popularity = _below_zero(_counts(histories.item_rows, items))


def scores_of_past(histories: Sequence[History], similarities: sparse.csr_matrix, *, half_life: float | None) -> Scores:
    """Sum over every user's past of 0.5^(age / half_life) times the row of each item: (B, I) float32."""
    lengths = [len(history) for history in histories]
    users = np.repeat(np.arange(len(histories)), lengths)
    rows = np.concatenate([history.item_rows for history in histories])
    ages = np.concatenate([np.arange(length - 1, -1, -1) for length in lengths])
    weights = np.ones(rows.size) if half_life is None else 0.5 ** (ages / half_life)
    known = rows <= similarities.shape[0]
    shape = (len(histories), similarities.shape[0])
    past = sparse.csr_matrix((weights[known].astype(np.float32), (users[known], rows[known] - 1)), shape=shape)
    scores: Scores = (past @ similarities).toarray()
    return scores


def _below_zero(counts: Scores) -> Scores:
    """Popularity in [-1, 0): under every similarity."""
    share: Scores = counts / (counts.max(initial=0) + 1)
    return share - 1


def _counts(item_rows: Int64Array, items: int) -> Scores:
    """(I,) float32 events of every item."""
    return np.bincount(item_rows, minlength=items + 2)[1 : items + 1].astype(np.float32)


def _similarities(histories: Histories, *, items: int, neighbors: int, shrinkage: float) -> sparse.csr_matrix:
    """(I, I) float32: column j holds the `neighbors` largest similarities of item j, and those equal to the last.

    In blocks of columns: users with ten thousand items would fill the whole matrix.
    """
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    known = histories.item_rows <= items
    pairs = np.unique(np.stack([users[known], histories.item_rows[known] - 1]), axis=1)
    shape = (len(histories), items)
    matrix = sparse.csc_matrix((np.ones(pairs.shape[1], dtype=np.float32), (pairs[0], pairs[1])), shape=shape)
    root = np.sqrt(np.diff(matrix.indptr)).astype(np.float32)  # of the users of every item
    across = matrix.T.tocsr()
    blocks = []
    for start in range(0, items, _BLOCK):
        common = (across @ matrix[:, start : start + _BLOCK]).tocsc()
        columns = np.repeat(np.arange(common.shape[1]), np.diff(common.indptr))
        common.data /= root[common.indices] * root[start + columns] + np.float32(shrinkage)
        best = common.data >= _smallest_kept(common, neighbors)[columns]
        blocks.append(sparse.csc_matrix((common.data[best], (common.indices[best], columns[best])), shape=common.shape))
    similarities: sparse.csr_matrix = sparse.hstack(blocks, format="csr")
    return similarities


def _smallest_kept(block: sparse.csc_matrix, neighbors: int) -> Scores:
    """(columns,) float32: the smallest of the `neighbors` largest values of every column, 0 where it has fewer."""
    smallest = np.zeros(block.shape[1], dtype=np.float32)
    full = np.flatnonzero(np.diff(block.indptr) > neighbors)
    place = block.shape[0] - neighbors
    if full.size:
        smallest[full] = np.partition(block[:, full].T.toarray(), place, axis=1)[:, place]
    return smallest


def measure(baseline: Baseline, part: Evaluation, *, ks: Sequence[int] = DEFAULT_KS) -> dict[str, float]:
    """Metrics of a baseline.

    Raises:
        EvaluationError: no user can be evaluated.
    """
    return ranked(baseline, part, ks=ks).result()


def ranked(baseline: Baseline, part: Evaluation, *, ks: Sequence[int] = DEFAULT_KS) -> RankingMetrics:
    """Every user's rank by a baseline, users in their order."""
    metrics = RankingMetrics(ks)
    for batch in part.batches():
        metrics.add(baseline.scores(batch.histories), batch.targets, batch.seen)
    return metrics
