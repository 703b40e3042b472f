"""One training run in memory: weights, their moving average, the optimizer; one epoch at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hytrec.data.histories import Histories
from hytrec.data.sampling import TrainingBatch, training_batches, training_users
from hytrec.modeling.model import HyTRec
from hytrec.training.losses import Negatives, encode_batch, next_item_loss, read_positions, rerank_loss
from hytrec.training.options import TrainingOptions

__all__ = ["StepLoss", "Trainer"]

_MAX_GRADIENT_NORM = 1.0
_POPULARITY_POWER = 0.75
_LAST_RATE = 0.1
_RERANK_SHARE = 1
"""Events encoded in a step over candidates reranked in it."""


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """Losses of one step, and how many events and users it took."""

    long: float
    user: float
    rerank: float
    events: int
    users: int

    @property
    def total(self) -> float:
        """The minimized loss."""
        return self.long + self.user + self.rerank


class Trainer:
    """Trains a model on the training part of a log.

    Everything drawn depends on (seed, epoch) alone, so that a run resumed after any epoch equals an uninterrupted one.

    Args:
        model: is changed in place.
        histories: the training part.
        options: how to train.
        reversal: whether every second epoch reads histories backwards.
    """

    def __init__(
        self, model: HyTRec, histories: Histories, options: TrainingOptions, *, reversal: bool = False
    ) -> None:
        self.model = model
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.options = options
        self.steps = 0
        self._histories = histories
        self._reversal = reversal
        self._users = training_users(histories).size
        counts = np.bincount(histories.item_rows, minlength=model.items + 2)[1 : model.items + 1]
        self._popularity = torch.from_numpy((counts + 1.0) ** _POPULARITY_POWER).float()
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(model, options), lr=options.learning_rate, betas=(0.9, 0.98)
        )

    def epoch(self, number: int, *, spent: Callable[[], float] = lambda: 0.0) -> Iterator[StepLoss]:
        """Go once through all histories, yielding after every step.

        Args:
            spent: share of the time allowed that is used up, in [0, 1]; where it is ahead of the epochs, it decides on
                the learning rate.
        """
        options = self.options
        torch.manual_seed(int(np.random.SeedSequence((options.seed, number)).generate_state(1)[0]))
        self.model.train()
        users = 0
        backwards = self._reversal and number % 2 == 1
        for batch in training_batches(
            self._histories.backwards() if backwards else self._histories,
            items=self.model.items,
            max_history=options.max_history,
            batch_events=options.batch_events,
            positions=options.positions,
            unknown_rate=options.unknown_rate,
            random=np.random.default_rng((options.seed, number)),
        ):
            users += batch.times.shape[0]
            if bool((batch.targets > 0).any()):
                self._set_learning_rate(max((number + users / self._users) / options.epochs, spent()))
                yield self._step(batch)

    def _set_learning_rate(self, done: float) -> None:
        """Rise over the warm-up, then fall in a line to a tenth; done: share of the training in [0, 1]."""
        rise = min(1.0, (self.steps + 1) / max(1, self.options.warmup_steps))
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.learning_rate * group["share"] * rise * (1 - (1 - _LAST_RATE) * min(1.0, done))

    def _step(self, batch: TrainingBatch) -> StepLoss:
        negatives = Negatives.drawn(self._popularity, count=self.options.negatives)
        encoded = encode_batch(self.model, batch)
        known = batch.targets > 0
        long = next_item_loss(self.model, encoded.outputs[known], batch.targets[known], negatives)
        readout = read_positions(self.model, batch, encoded, batch.positions, summary_only=True)
        targets = batch.targets.gather(1, batch.positions)
        chosen = batch.chosen & (targets > 0)
        user = next_item_loss(self.model, readout.user[chosen.flatten()], targets[chosen], negatives)
        rerank = rerank_loss(
            self.model,
            batch,
            encoded,
            candidates=self.options.rerank_candidates,
            positions=max(1, self.options.batch_events // (_RERANK_SHARE * self.options.rerank_candidates)),
        )
        self.steps += 1
        self._optimizer.zero_grad(set_to_none=True)
        (long + user + rerank).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._move_average()
        return StepLoss(
            long=long.item(),
            user=user.item(),
            rerank=rerank.item(),
            events=batch.events,
            users=batch.times.shape[0],
        )

    @torch.no_grad()
    def _move_average(self) -> None:
        decay = min(self.options.average_decay, (1 + self.steps) / (10 + self.steps))
        for kept, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(now, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "steps": self.steps,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.steps = state["steps"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])


def _parameter_groups(model: HyTRec, options: TrainingOptions) -> list[dict[str, Any]]:
    """Weight decay on matrices and tables only: never on norms, biases and what makes up the memory's decay.

    `share` of a group is its learning rate over the model's: the item table has its own.
    """
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter is not model.item_table.weight:
            (free if parameter.ndim < 2 or ".decay." in name else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": options.weight_decay, "share": 1.0},
        {"params": free, "weight_decay": 0.0, "share": 1.0},
        {"params": [model.item_table.weight], "weight_decay": options.weight_decay, "share": options.item_rate},
    ]
