"""The scales of the reranker's neighbors, chosen by a grid on the validation part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hytrec.data.split import Evaluation
from hytrec.evaluation.evaluate import GROUP, batches_by_length, read_histories_at
from hytrec.modeling.model import HyTRec, Readout
from hytrec.modeling.neighbor_score import NeighborScore, fading_of

__all__ = ["NeighborScales", "ServedLists", "fit_neighbors", "list_gains", "readout_of"]

HALF_LIVES = (1.0, 2.0, 4.0, 8.0, 16.0)
PAIRS = ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (8.0, 8.0), (16.0, 16.0), (1.0, 4.0), (2.0, 8.0), (4.0, 16.0), (1.0, 16.0))
SOFTENINGS = (0.004, 0.02, 0.1, 0.5)
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 1.75, 3.0, 5.0, 8.0, 13.0, 20.0)
_CUT = 10
_MAX_USERS = 10_000
"""The more there are, the smaller the error that a better choice has to exceed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedLists:
    """What the retriever lists for users: those n whose target is among it.

    Args:
        users: how many were asked for.
        targets: place of the target, (n,) int64.
        rows: (n, R) int64. retrieved: the retriever's scores, -inf at empty places.
    """

    users: int
    targets: Tensor
    rows: Tensor
    retrieved: Tensor
    readout: Readout

    @classmethod
    def of(cls, model: HyTRec, part: Evaluation) -> Self:
        """Of at most 10,000 evenly spaced users of a part.

        Raises:
            EvaluationError: no user can be evaluated.
        """
        part = part.thinned(_MAX_USERS)
        with torch.inference_mode():
            targets, rows, scores, readouts = zip(*_batches(model, part), strict=True)
        stacked = {name: torch.cat([getattr(own, name) for own in readouts]) for name in vars(readouts[0])}
        return cls(
            users=len(part),
            targets=torch.cat(targets),
            rows=torch.cat(rows),
            retrieved=torch.cat(scores),
            readout=Readout(**stacked),
        )


def _batches(model: HyTRec, part: Evaluation) -> Iterator[tuple[Tensor, Tensor, Tensor, Readout]]:
    for batch in batches_by_length(part):
        readout = read_histories_at(model, batch.histories, batch.now)
        place = readout.user.device
        rows = model.retrieve(readout, torch.from_numpy(batch.seen).to(place))
        is_target = rows == torch.from_numpy(batch.targets).to(place).unsqueeze(1)
        hit = torch.nonzero(is_target.any(1)).flatten()
        rows, readout = rows[hit], readout_of(readout, hit)
        scores = model.retrieve_scores(readout.user).gather(1, rows).masked_fill(rows == 0, -torch.inf)
        yield is_target[hit].to(torch.int64).argmax(1), rows, scores, readout


@dataclass(frozen=True, kw_only=True)
class NeighborScales:
    """lambda, eps and half-lives in events, and the NDCG@10 of the validation part that they give."""

    strength: float
    softening: float
    half_lives: tuple[float, float]
    ndcg: float


def fit_neighbors(model: HyTRec, lists: ServedLists) -> NeighborScales | None:
    """Choose the scales by the retriever's list reordered, and set them in the model. None where it has no neighbors.

    The largest of hundreds of noisy means flatters itself. So of all scales whose NDCG@10 is within a standard error of
    the best (of the difference, paired over users), those with the smallest cross-entropy of the target in the list
    are taken; strength 0, the retriever alone, is among them where neighbors bring nothing. Fill the table before.

    Args:
        lists: of the validation part.
    """
    if model.neighbors is None:
        return None
    fading = fading_of(HALF_LIVES, window=model.window).to(model.norm.weight.device)
    with torch.inference_mode():
        nearness = _nearness(model.neighbors, lists.rows, lists.readout.recent_items, fading)
    targets, scores, users = lists.targets, lists.retrieved, max(1, lists.users)
    scales: list[tuple[float, float, tuple[float, float]]] = []
    gains, losses = [], []
    for softening in SOFTENINGS:
        terms = torch.log(1 + nearness / softening)
        for half_lives in PAIRS:
            one, other = map(HALF_LIVES.index, half_lives)
            added = (terms[:, one] + terms[:, other]) / 2
            for strength in STRENGTHS:
                reordered = scores + strength * added
                scales.append((strength, softening, half_lives))
                gains.append(list_gains(reordered, targets))
                losses.append(float(cross_entropy(reordered, targets, reduction="sum")))
    chosen = _within_an_error(torch.stack(gains).double(), users, losses)
    strength, softening, half_lives = scales[chosen]
    model.neighbors.choose(strength=strength, softening=softening, half_lives=half_lives)
    ndcg = float(gains[chosen].sum()) / users
    return NeighborScales(strength=strength, softening=softening, half_lives=half_lives, ndcg=ndcg)


def _within_an_error(gains: Tensor, users: int, losses: Sequence[float]) -> int:
    """The choice with the smallest loss of those within a standard error of the best.

    Args:
        gains: of every choice and user whose target is in the list, (C, n); the gain of all other users is 0.
        users: how many there are in all.
        losses: of every choice.
    """
    behind = gains[int(gains.sum(1).argmax())] - gains
    mean = behind.sum(1) / users
    error = ((behind.square().sum(1) / users - mean.square()) / users).clamp(min=0).sqrt()
    near: list[int] = torch.nonzero(mean <= error).flatten().tolist()
    return min(near, key=lambda choice: losses[choice])


def readout_of(readout: Readout, users: Tensor) -> Readout:
    """The readout of some of its users (n,) int64."""
    return Readout(**{name: tensor[users] for name, tensor in vars(readout).items()})


def _nearness(neighbors: NeighborScore, rows: Tensor, recent: Tensor, fading: Tensor) -> Tensor:
    """As `NeighborScore.nearness`, a few users at a time."""
    groups = zip(rows.split(GROUP), recent.split(GROUP), strict=True)
    return torch.cat([neighbors.nearness(own, seen, fading) for own, seen in groups])


def list_gains(scores: Tensor, targets: Tensor) -> Tensor:
    """1 / log2(rank + 1) of every target (n,), 0 beyond the tenth; of equal scores the earlier place comes first."""
    places = torch.arange(scores.shape[1], device=scores.device)
    own = scores.gather(1, targets.unsqueeze(1))
    before = (scores > own) | ((scores == own) & (places < targets.unsqueeze(1)))
    ranks = before.sum(1) + 1
    return torch.where(ranks <= _CUT, 1 / torch.log2(ranks + 1.0), 0.0)
