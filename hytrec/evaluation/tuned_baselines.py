"""The baselines, tuned on the validation part and measured on the test part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

from hytrec.data.histories import Histories
from hytrec.data.split import Evaluation, Part, Split, evaluation, training
from hytrec.evaluation.baselines import Baseline, ItemKNN, MostPopular, ProximityKNN, measure
from hytrec.evaluation.metrics import DEFAULT_KS

__all__ = ["measure_baselines", "tuned_baselines", "tuned_item_knns", "tuned_proximity_knn"]

NEIGHBORS = (200, 1000)
SHRINKAGES = (0.0, 10.0, 30.0)
HALF_LIVES = (1.0, 2.0, 4.0)
PROXIMITY_NEIGHBORS = (128, 1000)
PROXIMITY_HALF_LIVES = (1.0, 2.0, 4.0, 8.0, 16.0)
_TUNING_USERS = 4096

_KNN = TypeVar("_KNN")


def tuned_item_knns(histories: Histories, validation: Evaluation, *, items: int) -> tuple[ItemKNN, ItemKNN]:
    """The item-kNN with the best NDCG@10 on (at most 4,096 evenly spaced users of) the validation part.

    Args:
        histories: the training part.

    Returns:
        The best that counts the whole past alike, and the best with a half-life.

    Raises:
        EvaluationError: no user can be evaluated.
    """
    sample = validation.thinned(_TUNING_USERS)
    plain: list[tuple[float, ItemKNN]] = []
    recent: list[tuple[float, ItemKNN]] = []
    for neighbors, shrinkage in product(NEIGHBORS, SHRINKAGES):
        knn = ItemKNN(histories, items=items, neighbors=neighbors, shrinkage=shrinkage)
        plain.append((measure(knn, sample, ks=(10,))["ndcg@10"], knn))
        for half_life in HALF_LIVES:
            reread = knn.with_half_life(half_life)
            recent.append((measure(reread, sample, ks=(10,))["ndcg@10"], reread))
    return _first_best(plain), _first_best(recent)


def tuned_proximity_knn(histories: Histories, validation: Evaluation, *, items: int) -> ProximityKNN:
    """The proximity kNN with the best NDCG@10 on (at most 4,096 evenly spaced users of) the validation part.

    Args:
        histories: the training part.

    Raises:
        EvaluationError: no user can be evaluated.
    """
    sample = validation.thinned(_TUNING_USERS)
    tried: list[tuple[float, ProximityKNN]] = []
    for neighbors in PROXIMITY_NEIGHBORS:
        knn = ProximityKNN(histories, items=items, neighbors=neighbors)
        for half_life in PROXIMITY_HALF_LIVES:
            reread = knn.with_half_life(half_life)
            tried.append((measure(reread, sample, ks=(10,))["ndcg@10"], reread))
    return _first_best(tried)


def _first_best(candidates: list[tuple[float, _KNN]]) -> _KNN:
    return max(candidates, key=lambda candidate: candidate[0])[1]


def measure_baselines(
    histories: Histories,
    *,
    items: int,
    allow_repeats: bool = False,
    split: Split = Split.LAST,
    behaviors: Sequence[int] = (),
    ks: Sequence[int] = DEFAULT_KS,
) -> dict[str, dict[str, float]]:
    """Test metrics of "most-popular", "item-knn", "item-knn-recent" and "proximity-knn".

    All but the first are tuned on the validation part.

    Args:
        histories: the whole log.
        behaviors: rows of the behaviors to predict; none: all events are.

    Raises:
        EvaluationError: no user can be evaluated.
    """
    validation, test = (
        evaluation(histories, part, items=items, allow_repeats=allow_repeats, split=split, behaviors=behaviors)
        for part in (Part.VALIDATION, Part.TEST)
    )
    baselines = tuned_baselines(training(histories, split, behaviors=behaviors), validation, items=items)
    return {name: measure(baseline, test, ks=ks) for name, baseline in baselines.items()}


def tuned_baselines(known: Histories, validation: Evaluation, *, items: int) -> dict[str, Baseline]:
    """The baselines of `measure_baselines`, made from the training part and tuned on the validation part."""
    plain, recent = tuned_item_knns(known, validation, items=items)
    return {
        "most-popular": MostPopular(known, items=items),
        "item-knn": plain,
        "item-knn-recent": recent,
        "proximity-knn": tuned_proximity_knn(known, validation, items=items),
    }
