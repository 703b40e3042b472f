"""The scales of the reranker's neighbors, chosen by a grid on the validation part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from hytrec.data.split import Evaluation
from hytrec.evaluation.evaluate import batches_by_length, read_histories_at
from hytrec.modeling.model import HyTRec
from hytrec.modeling.neighbor_score import NeighborScore, fading_of

__all__ = ["NeighborScales", "fit_neighbors"]

HALF_LIVES = (1.0, 2.0, 4.0, 8.0, 16.0)
SOFTENINGS = (0.001, 0.005, 0.02, 0.1, 0.5)
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0, 6.0, 10.0, 15.0, 20.0, 30.0)
_CUT = 10


@dataclass(frozen=True, kw_only=True)
class NeighborScales:
    """lambda, eps and half-lives in events, and the NDCG@10 of the validation part they were chosen by."""

    strength: float
    softening: float
    half_lives: tuple[float, float]
    ndcg: float


def fit_neighbors(model: HyTRec, validation: Evaluation) -> NeighborScales | None:
    """Choose the scales with the best NDCG@10 of the retriever's list reordered, and set them in the model.

    The table has to be filled before. Of equal scales the first is taken, the weakest. None where there are no
    neighbors.

    Raises:
        EvaluationError: no user can be evaluated.
    """
    if model.neighbors is None:
        return None
    targets, scores, nearness = _lists(model, model.neighbors, validation)
    terms = {
        (half_life, softening): torch.log(1 + nearness[:, place] / softening)
        for place, half_life in enumerate(HALF_LIVES)
        for softening in SOFTENINGS
    }
    tried = (
        NeighborScales(
            strength=strength,
            softening=softening,
            half_lives=half_lives,
            ndcg=_gain(scores + strength * added, targets) / len(validation),
        )
        for softening in SOFTENINGS
        for half_lives in combinations_with_replacement(HALF_LIVES, 2)
        for added in [(terms[half_lives[0], softening] + terms[half_lives[1], softening]) / 2]
        for strength in STRENGTHS
    )
    best = max(tried, key=lambda scales: (scales.ndcg, -scales.strength))
    model.neighbors.choose(strength=best.strength, softening=best.softening, half_lives=best.half_lives)
    return best


def _lists(model: HyTRec, neighbors: NeighborScore, validation: Evaluation) -> tuple[Tensor, Tensor, Tensor]:
    """Of the users whose target was retrieved: its place (n,), scores (n, R), nearness (n, half-lives, R)."""
    fading = fading_of(HALF_LIVES, window=model.window)
    found = list(_batches(model, neighbors, validation, fading))
    targets, scores, nearness = (torch.cat(values) for values in zip(*found, strict=True))
    return targets, scores, nearness


def _batches(
    model: HyTRec, neighbors: NeighborScore, validation: Evaluation, fading: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    with torch.inference_mode():
        for batch in batches_by_length(validation):
            readout = read_histories_at(model, batch.histories, batch.now)
            rows = model.retrieve(readout, torch.from_numpy(batch.seen))
            is_target = rows == torch.from_numpy(batch.targets).unsqueeze(1)
            hit = is_target.any(1)
            rows = rows[hit]
            scores = model.retrieve_scores(readout.user[hit]).gather(1, rows).masked_fill(rows == 0, -torch.inf)
            yield (
                is_target[hit].to(torch.int64).argmax(1),
                scores,
                neighbors.nearness(rows, readout.recent_items[hit], fading),
            )


def _gain(scores: Tensor, targets: Tensor) -> float:
    """Sum of 1 / log2(rank + 1) of the targets among the first ten; of equal scores the earlier place comes first."""
    places = torch.arange(scores.shape[1])
    own = scores.gather(1, targets.unsqueeze(1))
    before = (scores > own) | ((scores == own) & (places < targets.unsqueeze(1)))
    ranks = before.sum(1) + 1
    return float((1 / torch.log2(ranks + 1.0))[ranks <= _CUT].sum())
