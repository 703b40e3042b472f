from __future__ import annotations

import pytest
import torch

from hytrec.modeling.model import HyTRec
from hytrec.training.losses import Negatives, next_item_loss


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


def test_nothing_to_learn_from_costs_nothing(model: HyTRec) -> None:
    nothing = next_item_loss(
        model, torch.zeros(0, 16), torch.zeros(0, dtype=torch.int64), Negatives.drawn(torch.ones(30), count=30)
    )
    assert nothing.item() == 0
