"""One training run in memory: weights, their moving average, the optimizer; one epoch at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from hytrec.data.histories import Histories
from hytrec.data.sampling import TargetWeights, TrainingBatch, training_batches, training_users
from hytrec.modeling.model import HyTRec
from hytrec.training.carried import Carried
from hytrec.training.devices import multiply_in_bfloat16
from hytrec.training.losses import Negatives, encode_batch, next_item_loss, read_positions
from hytrec.training.options import Precision, TrainingOptions
from hytrec.training.prefetch import StepBatch, on_device

__all__ = ["StepLoss", "Trainer"]

BoolArray = npt.NDArray[np.bool_]

_MAX_GRADIENT_NORM = 1.0
_POPULARITY_POWER = 0.75
_LAST_RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """Losses of one step, how many events and users it took, and how far the training is.

    Args:
        epoch_share: of the epoch's events that are trained, in (0, 1].
        done: share of the whole training, in (0, 1]; by the time allowed where that ends first.
    """

    long: float
    user: float
    events: int
    users: int
    epoch_share: float = 1.0
    done: float = 1.0

    @property
    def total(self) -> float:
        """The minimized loss."""
        return self.long + self.user


class Trainer:
    """Trains a model on the training part of a log.

    Everything drawn depends on (seed, epoch) and on the steps of the epoch before, of which the random numbers' states
    are part of `state_dict`: a run resumed after any step equals an uninterrupted one.

    Args:
        model: is changed in place; where its weights are, is trained.
        histories: the training part.
        options: how to train.
        precision: of the products, as `hytrec.training.devices.chosen_precision` says; never AUTO.
        reversal: whether every second epoch reads histories backwards.
        weights: of targets by behavior; None: all the same.
        cold: (I,) bool, items that are ranked by their features alone: no negatives, which would push those away that
            they share features with.
    """

    def __init__(
        self,
        model: HyTRec,
        histories: Histories,
        options: TrainingOptions,
        *,
        precision: Precision = Precision.FLOAT32,
        reversal: bool = False,
        weights: TargetWeights | None = None,
        cold: BoolArray | None = None,
    ) -> None:
        self.model = model
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.options = options
        self.device = model.norm.weight.device
        if precision is Precision.BFLOAT16:
            multiply_in_bfloat16(model)
        self.steps = 0
        self.batches = 0
        self._random: dict[str, Tensor] | None = None
        self._histories = histories
        self._carried: Carried | None = None
        self._events = int((histories.lengths[training_users(histories)] - 1).sum())
        self._reversal = reversal
        self._weights = weights
        counts = np.bincount(histories.item_rows, minlength=model.items + 2)[1 : model.items + 1]
        popularity = (counts + 1.0) ** _POPULARITY_POWER
        self._among: Tensor | None = None
        if cold is not None:
            popularity[cold] = 0
            self._among = torch.from_numpy(np.flatnonzero(~cold) + 1).to(self.device)
        self._popularity = torch.from_numpy(popularity).float().to(self.device)
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(model, options), lr=options.learning_rate, betas=(0.9, 0.98)
        )

    def epoch(self, number: int, *, spent: Callable[[], float] = lambda: 0.0) -> Iterator[StepLoss]:
        """Go once through all histories, yielding after every step; from after the batches that are trained already.

        Call `end_epoch` before the next one.

        Args:
            spent: share of the time allowed that is used up, in [0, 1]; where it is ahead of the epochs, it decides on
                the learning rate.
        """
        options = self.options
        torch.manual_seed(int(np.random.SeedSequence((options.seed, number)).generate_state(1)[0]))
        self.model.train()
        if self._random is not None:
            self._set_random(self._random)
            self._random = None
        events, trained = 0, self.batches
        backwards = self._reversal and number % 2 == 1
        batches = training_batches(
            self._histories.backwards() if backwards else self._histories,
            items=self.model.items,
            max_history=options.max_history,
            batch_events=options.batch_events,
            positions=options.positions,
            unknown_rate=options.unknown_rate,
            random=np.random.default_rng((options.seed, number)),
            weights=self._weights,
        )
        for index, batch in enumerate(on_device(batches, self.device)):
            events += batch.events
            if index < trained:
                continue
            self.batches = index + 1
            if batch.known.numel():
                share = events / self._events
                done = min(1.0, max((number + share) / options.epochs, spent()))
                self._set_learning_rate(done)
                long, user = torch.stack(self.step(batch)).tolist()
                yield StepLoss(
                    long=long,
                    user=user,
                    events=batch.events,
                    users=batch.batch.times.shape[0],
                    epoch_share=share,
                    done=done,
                )

    def end_epoch(self) -> None:
        """The next epoch begins with its first batch."""
        self.batches, self._carried = 0, None

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def _set_learning_rate(self, done: float) -> None:
        """Rise over the warm-up, then fall in a line to a tenth; done: share of the training in [0, 1]."""
        rise = min(1.0, (self.steps + 1) / max(1, self.options.warmup_steps))
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.learning_rate * group["share"] * rise * (1 - (1 - _LAST_RATE) * min(1.0, done))

    def step(self, step: StepBatch) -> tuple[Tensor, Tensor]:
        """Train on one batch, on the model's device, without waiting for it.

        Returns:
            Losses of long vector and user vector: two scalars.
        """
        self._optimizer.zero_grad(set_to_none=True)
        with parametrize.cached():  # an item table with features is summed once a step
            long, user = self.losses(step)
            (long + user).backward()
        self.steps += 1
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._move_average()
        return long.detach(), user.detach()

    def losses(self, step: StepBatch) -> tuple[Tensor, Tensor]:
        """The losses of one batch; carries the state of stretches to the next one.

        Returns:
            Losses of long vector and user vector: two scalars.
        """
        batch = step.batch
        negatives = Negatives.drawn(self._popularity, count=self.options.negatives, among=self._among)
        state = self._begun(batch)
        encoded = encode_batch(self.model, batch, state)
        if state is not None:
            self._carry(batch, state.after(batch, encoded))
        long = batch.times.new_zeros((), dtype=torch.float32)
        if self.model.read_long:
            targets = batch.targets.flatten()[step.known]
            weights = None if batch.weights is None else batch.weights.flatten()[step.known]
            long = next_item_loss(self.model, encoded.outputs.flatten(0, 1)[step.known], targets, negatives, weights)
        if state is not None:
            batch, encoded = state.before(batch, encoded)
        readout = read_positions(self.model, batch, encoded, batch.positions, summary_only=True)
        targets = batch.targets.gather(1, batch.positions).flatten()[step.chosen]
        weights = None if batch.weights is None else batch.weights.gather(1, batch.positions).flatten()[step.chosen]
        user = next_item_loss(self.model, readout.user[step.chosen], targets, negatives, weights)
        return long, user

    def _begun(self, batch: TrainingBatch) -> Carried | None:
        """The states that the rows of a batch go on from; None where they are whole histories."""
        if batch.lanes is None or batch.fresh is None:
            return None
        if self._carried is None:  # the first stretches of an epoch: every lane is there
            self._carried = Carried.empty(self.model, batch.lanes.shape[0])
        return self._carried.begun(batch.lanes, batch.fresh)

    def _carry(self, batch: TrainingBatch, states: Carried) -> None:
        if self._carried is not None and batch.lanes is not None:
            self._carried = self._carried.put(batch.lanes, states)

    @torch.no_grad()
    def _move_average(self) -> None:
        decay = min(self.options.average_decay, (1 + self.steps) / (10 + self.steps))
        for kept, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(now, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "batches": self.batches,
            "carried": None if self._carried is None else vars(self._carried),
            "random": random,
            "steps": self.steps,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.steps, self.batches = state["steps"], state["batches"]
        self._random = state["random"] if self.batches else None
        carried = state["carried"]
        self._carried = carried and Carried(**{name: value.to(self.device) for name, value in carried.items()})
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _set_random(self, random: dict[str, Tensor]) -> None:
        torch.set_rng_state(random["cpu"])
        if self.device.type == "cuda" and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.device)


def _parameter_groups(model: HyTRec, options: TrainingOptions) -> list[dict[str, Any]]:
    """Weight decay on matrices and tables only: never on norms, biases and what makes up the memory's decay.

    `share` of a group is its learning rate over the model's: the item table, features included, has its own.
    """
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    tables = list(model.item_table.parameters())
    of_tables = {id(table) for table in tables}
    for name, parameter in model.named_parameters():
        if id(parameter) not in of_tables:
            (free if parameter.ndim < 2 or ".decay." in name else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": options.weight_decay, "share": 1.0},
        {"params": free, "weight_decay": 0.0, "share": 1.0},
        {"params": tables, "weight_decay": options.weight_decay, "share": options.item_rate},
    ]
