"""Stretches with a carried state cost what one long stretch costs, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.sampling import TargetWeights, training_batches
from hytrec.modeling.model import HyTRec, build_model
from hytrec.training.options import TrainingOptions
from hytrec.training.prefetch import StepBatch
from hytrec.training.trainer import Trainer

ITEMS = 200
CONFIG = ModelConfig(
    items=ITEMS, behaviors=2, width=16, heads=2, tadn_layers=2, softmax_layers=2, window=6, experts=2, dropout=0.0
)
OPTIONS = TrainingOptions(batch_events=10**6, positions=1_000, negatives=ITEMS, max_history=1_000)
"""Every position, every item: nothing is drawn."""


def history_log(*lengths: int, seed: int = 0) -> Histories:
    random = np.random.default_rng(seed)
    events = sum(lengths)
    return Histories(
        user_keys=np.arange(len(lengths)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=np.concatenate([random.permutation(ITEMS)[:length] + 1 for length in lengths]),
        behavior_rows=random.integers(0, 3, events),
        times=np.concatenate([10**9 + np.cumsum(random.integers(0, 90_000, length)) for length in lengths]),
    )


def user_of(log: Histories, user: int) -> Histories:
    history = log.history(user)
    return Histories(
        user_keys=np.arange(1),
        offsets=np.array([0, len(history)]),
        item_rows=history.item_rows,
        behavior_rows=history.behavior_rows,
        times=history.times,
    )


def new_trainer(log: Histories, *, window: int = 6, **changes: int) -> Trainer:
    torch.manual_seed(0)
    model = build_model(replace(CONFIG, window=window)).double()
    trainer = Trainer(model, log, replace(OPTIONS, **changes))  # type: ignore[arg-type]
    trainer.model.train()
    return trainer


def steps(log: Histories, max_history: int, weights: TargetWeights | None = None) -> list[StepBatch]:
    return [
        StepBatch.of(batch)
        for batch in training_batches(
            log,
            items=ITEMS,
            max_history=max_history,
            batch_events=OPTIONS.batch_events,
            positions=OPTIONS.positions,
            unknown_rate=0.0,
            random=np.random.default_rng(0),
            weights=weights,
        )
    ]


def sums(log: Histories, max_history: int, *, window: int = 6) -> tuple[Tensor, list[Tensor]]:
    """Sums of both losses over all events, and both of the last step."""
    trainer = new_trainer(log, window=window)
    total = torch.zeros(2, dtype=torch.float64)
    last: list[Tensor] = []
    for step in steps(log, max_history):
        last = [loss.detach() for loss in trainer.losses(step)]
        counts = [step.known.numel(), step.chosen.numel()]
        total += torch.stack(last) * torch.tensor(counts)
    return total, last


@pytest.mark.parametrize("max_history", [1, 5, 7, 20, 38, 39, 40])
def test_stretches_cost_what_one_long_stretch_costs(max_history: int) -> None:
    """Window of 6 events, so that it lies within a stretch, over a border, and over several; and a longer window."""
    log = history_log(40, 23)
    for window in (6, 64):
        whole, _ = sums(log, 1_000, window=window)
        cut, _ = sums(log, max_history, window=window)
        torch.testing.assert_close(cut, whole, rtol=1e-12, atol=0)


def test_an_event_before_the_stretch_changes_the_loss_as_in_one_long_stretch() -> None:
    log = history_log(31)
    other = replace(log, item_rows=np.where(np.arange(31) == 2, log.item_rows[9], log.item_rows))
    assert other.item_rows[2] != log.item_rows[2]
    (before, last), (after, last_after) = (sums(changed, 10) for changed in (log, other))
    assert steps(log, 10)[-1].batch.times.shape == (1, 10)
    difference = (last_after[0] - last[0]).abs()  # in the third stretch, of an event of the first
    assert difference > 1e-6
    whole = sums(other, 1_000)[0] - sums(log, 1_000)[0]
    torch.testing.assert_close((after - before)[:2], whole[:2], rtol=1e-9, atol=0)


def test_no_state_passes_from_one_user_to_the_next_in_a_lane() -> None:
    both = history_log(31, 25)
    one, second = (user_of(both, user) for user in (0, 1))
    trainer = new_trainer(both, batch_events=10)
    total = torch.zeros(2, dtype=torch.float64)
    batches = [
        StepBatch.of(batch)
        for batch in training_batches(
            both,
            items=ITEMS,
            max_history=10,
            batch_events=10,  # one lane
            positions=1_000,
            unknown_rate=0.0,
            random=np.random.default_rng(0),
        )
    ]
    assert [batch.batch.times.shape[0] for batch in batches] == [1] * 6
    for step in batches:
        total += torch.stack([loss.detach() for loss in trainer.losses(step)]) * step.known.numel()
    apart = sums(one, 1_000)[0] + sums(second, 1_000)[0]
    torch.testing.assert_close(total[:2], apart[:2], rtol=1e-12, atol=0)


def gradients(model: HyTRec) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_within_one_stretch_the_gradient_is_that_of_a_whole_history() -> None:
    log = history_log(30, 30)
    (step,) = steps(log, 1_000)
    lanes = replace(step.batch, lanes=torch.tensor([0, 1]), fresh=torch.tensor([True, True]))
    found = []
    for batch in (step, replace(step, batch=lanes)):
        trainer = new_trainer(log)
        sum(trainer.losses(batch)).backward()  # type: ignore[union-attr]
        found.append(gradients(trainer.model))
    whole, carried = found
    assert whole.keys() == carried.keys()
    for name, gradient in whole.items():
        if name != "short.slot":  # a window is cut to the history's length there, and is whole here
            torch.testing.assert_close(carried[name], gradient, rtol=1e-8, atol=1e-12, msg=name)


def test_no_gradient_and_no_memory_of_earlier_stretches_is_kept() -> None:
    log = history_log(150)
    trainer = new_trainer(log)
    sizes = set()
    for step in steps(log, 10):
        sum(trainer.losses(step)).backward()  # type: ignore[union-attr]
        carried = vars(trainer._carried)
        assert not any(value.requires_grad for value in carried.values())
        sizes.add(sum(value.numel() for value in carried.values()))
    assert len(sizes) == 1


@pytest.mark.parametrize("max_history", [1_000, 7])
def test_events_of_other_behaviors_are_no_targets_at_weight_0(max_history: int) -> None:
    """Their loss has no part in a step, in whole histories and in stretches."""
    log = history_log(40, 33, seed=3)
    one, other = new_trainer(log), new_trainer(log)
    for step in steps(log, max_history, TargetWeights(behaviors=(2,), other=0.0)):
        weights = step.batch.weights
        assert weights is not None
        alone = replace(step.batch, weights=None, targets=step.batch.targets * (weights > 0))
        for loss, want in zip(one.losses(step), other.losses(StepBatch.of(alone)), strict=True):
            torch.testing.assert_close(loss, want)
