from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hytrec.config import Branches, ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.sampling import training_batches
from hytrec.data.split import training
from hytrec.modeling.model import HyTRec, build_model
from hytrec.training.losses import Negatives, next_item_loss
from hytrec.training.options import TrainingOptions
from hytrec.training.prefetch import on_device
from hytrec.training.trainer import Trainer


def test_enough_negatives_mean_full_softmax(model: HyTRec) -> None:
    negatives = Negatives.drawn(torch.ones(30), count=30)
    assert negatives.log_expected is None
    vectors, targets = torch.randn(5, 16), torch.tensor([1, 2, 3, 29, 30])
    scores = model.retrieve_scores(vectors)[:, 1:31].double()
    want = (scores.logsumexp(1) - scores.gather(1, targets[:, None] - 1).squeeze(1)).mean()
    assert next_item_loss(model, vectors, targets, negatives).item() == pytest.approx(want.item(), rel=1e-5)


def test_sampled_softmax_estimates_the_full_one(model: HyTRec) -> None:
    torch.manual_seed(0)
    vectors, targets = torch.randn(400, 16), torch.randint(1, 31, (400,))
    popularity = torch.rand(30) + 0.1
    full = next_item_loss(model, vectors, targets, Negatives.drawn(popularity, count=30))
    drawn = Negatives(
        rows=torch.multinomial(popularity, 5_000, replacement=True) + 1,
        log_expected=torch.zeros(5_000),
    )
    share = popularity / popularity.sum()
    corrected = Negatives(rows=drawn.rows, log_expected=(share[drawn.rows - 1] * 5_000).log())
    estimate = next_item_loss(model, vectors, targets, corrected)
    assert estimate.item() == pytest.approx(full.item(), rel=0.02)


def test_negatives_are_drawn_by_popularity_with_their_log_expectation() -> None:
    torch.manual_seed(0)
    popularity = torch.tensor([1.0, 3.0] + [0.001] * 9_000)
    negatives = Negatives.drawn(popularity, count=4_000)
    assert negatives.log_expected is not None
    assert int((negatives.rows == 2).sum()) > 2 * int((negatives.rows == 1).sum())
    expected = popularity[negatives.rows - 1] / popularity.sum() * 4_000
    torch.testing.assert_close(negatives.log_expected.exp(), expected)


@pytest.mark.parametrize("count", [10, 30])
def test_a_weighted_loss_is_the_weighted_mean(model: HyTRec, count: int) -> None:
    torch.manual_seed(1)
    vectors, targets = torch.randn(6, 16), torch.randint(1, 31, (6,))
    weights = torch.tensor([1.0, 0.0, 0.25, 1.0, 0.5, 0.0])
    negatives = Negatives.drawn(torch.ones(30), count=count)
    own = torch.stack([next_item_loss(model, vectors[i : i + 1], targets[i : i + 1], negatives) for i in range(6)])
    want = (own * weights).sum() / weights.sum()
    torch.testing.assert_close(next_item_loss(model, vectors, targets, negatives, weights), want)
    assert next_item_loss(model, vectors, targets, negatives, torch.zeros(6)).item() == 0


def test_nothing_to_learn_from_costs_nothing(model: HyTRec) -> None:
    nothing = next_item_loss(
        model, torch.zeros(0, 16), torch.zeros(0, dtype=torch.int64), Negatives.drawn(torch.ones(30), count=30)
    )
    assert nothing.item() == 0


@pytest.mark.parametrize("branches", Branches)
def test_what_a_model_does_not_read_is_not_trained(
    branches: Branches, config: ModelConfig, options: TrainingOptions, log: Histories
) -> None:
    """An ablation that trained the encoder all the same would have its item table shaped by it."""
    model = build_model(replace(config, branches=branches))
    trainer = Trainer(model, training(log), options)
    batches = training_batches(
        training(log),
        items=config.items,
        max_history=100,
        batch_events=options.batch_events,
        positions=options.positions,
        unknown_rate=0.0,
        random=np.random.default_rng(0),
    )
    long, user = trainer.losses(next(on_device(batches, torch.device("cpu"))))
    (long + user).backward()
    reads_long, reads_short = branches in {Branches.BOTH, Branches.LONG}, branches in {Branches.BOTH, Branches.SHORT}

    def trained(part: torch.nn.Module) -> bool:
        return any(own.grad is not None and bool(own.grad.any()) for own in part.parameters())

    assert (bool(long > 0), trained(model.layers[0])) == (reads_long, reads_long)
    assert trained(model.short) == reads_short
    assert not trained(model.reranker)  # it is fitted afterwards, on events that the retriever does not know
    assert trained(model.item_table)
    assert trained(model.window_sum)
