"""The reranker's correction, fitted out of fold after the training, and what every part of a ranking gains.

The retriever knows the events that it was trained on by heart: a correction fitted on these learns to undo a certainty
that no new event has. So it is fitted on the validation part, on the very lists that are served: cross-entropy of the
target among retrieved items, by the score of retriever, neighbors and correction together.

Epochs and weight are those with the best NDCG@10 by cross-fitting: every user is scored by a correction that was fitted
on other users; weight 0 is among them. In fitting, every part is left out now and then, so that the others do without
it, and its gain is measured by leaving it out. The correction that is kept is fitted on all users.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hytrec.evaluation.evaluate import GROUP
from hytrec.evaluation.fit_neighbors import ServedLists, list_gains, readout_of
from hytrec.modeling.model import HyTRec
from hytrec.modeling.reranker import Reranker, RerankerPart
from hytrec.modeling.reranker_gains import CORRECTION, FittedReranker, Gain

__all__ = ["fit_correction"]

FOLDS = 2
EPOCHS = 3
WEIGHTS = (0.0, 0.25, 0.5, 1.0)
_STEP_LISTS = 32
_RATE = 1e-3
_WEIGHT_DECAY = 0.1
_LEFT_OUT = 0.15
"""Share of the steps that a part is left out of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lists(ServedLists):
    """Served lists with the neighbors' scores.

    Args:
        near: (n, R), 0 without neighbors.
    """

    near: Tensor

    def gains(self, scores: Tensor) -> Tensor:
        """NDCG@10 of every list in the order of scores (n, R): (n,) float64."""
        return list_gains(scores, self.targets).double()


def fit_correction(model: HyTRec, served: ServedLists, *, candidates: int, seed: int) -> FittedReranker:
    """Fit the correction and set it in the model. Its neighbors are fitted before.

    Args:
        served: lists of the validation part.
        candidates: retrieved items that compete with the target in a step.
        seed: of folds, order and dropout.
    """
    torch.manual_seed(seed)
    lists = _with_near(model, served)
    plain = lists.retrieved + lists.near
    best = lists.gains(plain)
    epochs, weight, correction = 0, 0.0, torch.zeros_like(plain)
    folds = torch.randperm(lists.targets.numel()) % FOLDS
    fits: list[list[Reranker]] = []
    if model.reranker.parts and lists.targets.numel() >= FOLDS:
        table = model.item_table.weight
        members = [torch.nonzero(folds != fold).flatten() for fold in range(FOLDS)]
        fits = [list(_fits(model.reranker, table, lists, own, candidates)) for own in members]
        for epoch in range(EPOCHS):
            held = _held_out([own[epoch] for own in fits], table, lists, folds)
            for share in WEIGHTS:
                found = lists.gains(plain + share * held)
                if found.sum() > best.sum():
                    epochs, weight, correction, best = epoch + 1, share, share * held, found
    gains = {CORRECTION: _gain(best, lists.gains(plain), lists.users)}
    if model.neighbors is not None:
        gains[RerankerPart.NEIGHBORS] = _gain(best, lists.gains(lists.retrieved + correction), lists.users)
    for part in model.reranker.parts:
        without = lists.gains(plain)
        if weight:
            chosen = [own[epochs - 1].without(part) for own in fits]
            without = lists.gains(plain + weight * _held_out(chosen, model.item_table.weight, lists, folds))
        gains[part] = _gain(best, without, lists.users)
    if weight:
        *_, kept = _fits(
            model.reranker, model.item_table.weight, lists, torch.arange(folds.numel()), candidates, epochs
        )
        model.reranker.load_state_dict(kept.state_dict())
    model.reranker.weigh(weight)
    ndcg = float(best.sum()) / max(1, lists.users)
    return FittedReranker(users=lists.users, epochs=epochs, weight=weight, ndcg=ndcg, gains=gains)


def _gain(whole: Tensor, without: Tensor, users: int) -> Gain:
    """Over all users: those whose target is in no list gain nothing."""
    difference = whole - without
    mean = float(difference.sum()) / max(1, users)
    variance = float(difference.square().sum()) / max(1, users) - mean**2
    return Gain(gain=mean, error=(max(0.0, variance) / max(1, users)) ** 0.5)


def _fits(
    reranker: Reranker, table: Tensor, lists: _Lists, members: Tensor, candidates: int, epochs: int = EPOCHS
) -> Iterator[Reranker]:
    """A copy of the reranker after every epoch of fitting on some lists; the learning rate falls over all `EPOCHS`."""
    fitted = copy.deepcopy(reranker).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(fitted.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
    plain = lists.retrieved + lists.near
    steps, step = EPOCHS * -(-members.numel() // _STEP_LISTS), 0
    for _ in range(epochs):
        for some in members[torch.randperm(members.numel())].split(_STEP_LISTS):
            places = _competing(plain[some], lists.targets[some], candidates)
            left_out = [part for part in fitted.parts if torch.rand(()) < _LEFT_OUT]
            corrected = fitted.without(*left_out)(
                table[lists.rows[some].gather(1, places)], readout_of(lists.readout, some)
            )
            loss = cross_entropy(plain[some].gather(1, places) + corrected, torch.zeros_like(lists.targets[some]))
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - step / steps)
            optimizer.zero_grad()
            if loss.requires_grad:
                loss.backward()
                optimizer.step()
            step += 1
        yield copy.deepcopy(fitted).requires_grad_(False).eval()


def _competing(plain: Tensor, targets: Tensor, candidates: int) -> Tensor:
    """Places of the target, first, and of drawn items of its list: (b, 1 + candidates) int64."""
    drawn = torch.rand(plain.shape, device=plain.device).masked_fill(plain == -torch.inf, -1.0)
    drawn.scatter_(1, targets.unsqueeze(1), 2.0)
    return drawn.topk(min(candidates + 1, plain.shape[1]), 1).indices


def _held_out(fits: Sequence[Reranker], table: Tensor, lists: _Lists, folds: Tensor) -> Tensor:
    """Corrections (n, R) of every list by the reranker that was fitted without its fold."""
    result = torch.zeros_like(lists.retrieved)
    with torch.inference_mode():
        for fold, reranker in enumerate(fits):
            for some in torch.nonzero(folds == fold).flatten().split(GROUP):
                result[some] = reranker(table[lists.rows[some]], readout_of(lists.readout, some))
    return result


def _with_near(model: HyTRec, served: ServedLists) -> _Lists:
    near = torch.zeros_like(served.retrieved)
    if model.neighbors is not None:
        with torch.inference_mode():
            for some in torch.arange(served.targets.numel()).split(GROUP):
                near[some] = model.neighbors(served.rows[some], served.readout.recent_items[some])
    return _Lists(**vars(served), near=near)
