"""Matrix factorization by the package implicit: alternating least squares, and Bayesian personalized ranking."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import sparse

from hytrec.data.histories import Histories, Int64Array
from hytrec.data.split import Evaluation
from hytrec_benchmarks.baselines.scoring import Scores
from hytrec_export.optional import require

__all__ = ["AlsSettings", "BprSettings", "Factors", "als_grid", "bpr_grid", "fit_als", "fit_bpr"]


@dataclass(frozen=True, kw_only=True)
class AlsSettings:
    """Of implicit.als.AlternatingLeastSquares (Hu et al., ICDM 2008)."""

    factors: int
    regularization: float
    alpha: float
    iterations: int = 15


@dataclass(frozen=True, kw_only=True)
class BprSettings:
    """Of implicit.bpr.BayesianPersonalizedRanking (Rendle et al., UAI 2009)."""

    factors: int
    learning_rate: float
    regularization: float
    iterations: int


def als_grid() -> list[AlsSettings]:
    """Settings that are tried."""
    return [
        AlsSettings(factors=factors, regularization=regularization, alpha=alpha)
        for factors, regularization, alpha in product((32, 64, 128), (0.01, 1.0, 10.0), (1.0, 10.0))
    ]


def bpr_grid() -> list[BprSettings]:
    """Settings that are tried."""
    return [
        BprSettings(factors=factors, learning_rate=rate, regularization=regularization, iterations=iterations)
        for factors, rate, regularization, iterations in product((64, 128), (0.02, 0.1), (0.001, 0.02), (50, 200))
    ]


class Factors:
    """Item factors, and users' factors from what they have had.

    Args:
        model: of implicit, trained.
        fold_in: whether a user's factors are solved for again from all events before the predicted one, as kNN reads
            them; else they are those of the training part.
    """

    def __init__(self, model: Any, *, fold_in: bool) -> None:
        self._model = model
        self._fold_in = fold_in

    def scores(self, part: Evaluation, indices: Int64Array) -> Scores:
        """See `hytrec_benchmarks.baselines.scoring.Learned`."""
        users = part.users[indices]
        if self._fold_in:
            past = [part.history(index).item_rows for index in indices]
            items = self._model.item_factors.shape[0]
            matrix = _binary(past, items)
            vectors = self._model.recalculate_user(np.arange(len(past)), matrix)
        else:
            vectors = self._model.user_factors[users]
        scores: Scores = vectors @ self._model.item_factors.T
        return scores


def fit_als(histories: Histories, settings: AlsSettings, *, items: int, seed: int) -> Factors:
    """Train on the training part.

    Raises:
        MissingPackageError: implicit is not installed.
    """
    als = require("implicit.cpu.als", extra="bench").AlternatingLeastSquares
    with _one_blas_thread():
        model = als(**asdict(settings), num_threads=1, random_state=seed)
        model.fit(_binary([history.item_rows for history in histories], items), show_progress=False)
    return Factors(model, fold_in=True)


def fit_bpr(histories: Histories, settings: BprSettings, *, items: int, seed: int) -> Factors:
    """Train on the training part.

    Raises:
        MissingPackageError: implicit is not installed.
    """
    bpr = require("implicit.cpu.bpr", extra="bench").BayesianPersonalizedRanking
    model = bpr(**asdict(settings), num_threads=1, random_state=seed)
    model.fit(_binary([history.item_rows for history in histories], items), show_progress=False)
    return Factors(model, fold_in=False)


def _one_blas_thread() -> AbstractContextManager[object]:
    """Implicit asks for it: its own threads and those of BLAS would hinder each other."""
    return require("threadpoolctl", extra="bench").threadpool_limits(1, "blas")  # type: ignore[no-any-return]


def _binary(past: list[Int64Array], items: int) -> sparse.csr_matrix:
    """(users, items) float32: 1 where a user has had an item."""
    known = [np.unique(rows[rows <= items]) - 1 for rows in past]
    columns = np.concatenate([np.empty(0, np.int64), *known])
    starts = np.concatenate(([0], np.cumsum([rows.size for rows in known])))
    return sparse.csr_matrix((np.ones(columns.size, np.float32), columns, starts), shape=(len(past), items))
