"""Features as a second input to the rows of the item table."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.item_features import ItemFeatures
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import RunError
from hytrec.modeling.model import HyTRec, build_model
from hytrec.run_folder import load_run
from hytrec.training.loop import train
from hytrec.training.losses import Negatives, next_item_loss
from hytrec.training.options import TrainingOptions
from hytrec.training.side_information import add_features, plain_weights
from hytrec.training.trainer import Trainer

GROUPS, PER_GROUP, NEW = 6, 8, 2
ITEMS = GROUPS * PER_GROUP
ROWS = np.arange(1, ITEMS + 1)
GROUP_OF = (ROWS - 1) % GROUPS
FEATURES = ItemFeatures.of([f"group={group}" for group in range(GROUPS)], ROWS, GROUP_OF, items=ITEMS)
IS_NEW = (ROWS - 1) // GROUPS >= PER_GROUP - NEW


def tastes(users: int = 150) -> Histories:
    """Users who keep to a group of items; the last event of each is of an item that nobody had before."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(users):
        own = ROWS[(user % GROUPS == GROUP_OF) & ~IS_NEW]
        new = ROWS[(user % GROUPS == GROUP_OF) & IS_NEW]
        rows.append(np.concatenate([random.permutation(own), random.choice(new, 1)]))
    lengths = [row.size for row in rows]
    return Histories(
        user_keys=np.arange(users),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=np.concatenate(rows),
        behavior_rows=np.zeros(sum(lengths), np.int64),
        times=np.concatenate([10**9 + 3600 * np.arange(length) for length in lengths]),
    )


@pytest.fixture
def sizes(config: ModelConfig) -> ModelConfig:
    return replace(config, items=ITEMS, behaviors=0, dropout=0.0)


@pytest.fixture
def small(sizes: ModelConfig) -> HyTRec:
    torch.manual_seed(0)
    return build_model(sizes)


def test_items_that_nobody_had_are_ranked_by_their_features(sizes: ModelConfig, tmp_path: Path) -> None:
    trained = [
        train(
            tastes(),
            Vocabulary(ROWS),
            output=tmp_path / str(features is None),
            config=sizes,
            options=TrainingOptions(epochs=5, batch_events=512, learning_rate=0.01),
            features=features,
        )
        for features in (FEATURES, None)
    ]
    gains = [own.metrics["test"]["retriever"]["ndcg@10"] for own in trained]
    assert gains[0] > 0.5  # two new items of the user's group come before those of other groups
    assert gains[0] > 2 * gains[1]
    run = load_run(tmp_path / "False")
    torch.testing.assert_close(run.model.item_table.weight, trained[0].model.item_table.weight)
    assert run.features is not None
    assert load_run(tmp_path / "True").features is None
    for row in ROWS[IS_NEW]:  # what a later item of the same features is given
        made = run.features.item_row([f"group={GROUP_OF[row - 1]}"])
        assert made is not None
        torch.testing.assert_close(torch.from_numpy(made), run.model.item_table.weight[int(row)])


def test_rows_of_items_with_events_stay_and_others_are_their_features(small: HyTRec) -> None:
    before = small.item_table.weight.detach().clone()
    cold = add_features(small, FEATURES, _without_last(tastes()))
    np.testing.assert_array_equal(cold, IS_NEW)
    after = small.item_table.weight
    known = torch.from_numpy(np.concatenate([[True], ~IS_NEW, [True]]))
    torch.testing.assert_close(after[known], before[known])
    rows = feature_rows(small)
    for row in ROWS[IS_NEW]:
        torch.testing.assert_close(after[int(row)], rows[int(GROUP_OF[row - 1])])


def test_the_first_feature_rows_are_a_ridge_regression(small: HyTRec) -> None:
    table = small.item_table.weight.detach().double().numpy()[1:-1]
    known = _without_last(tastes())
    add_features(small, FEATURES, known)
    weights = np.log1p(np.bincount(known.item_rows, minlength=ITEMS + 2)[1:-1])
    rows = feature_rows(small).numpy()
    for group in range(GROUPS):
        own = group == GROUP_OF
        expected = (weights[own, None] * table[own]).sum(0) / (weights[own].sum() + 1)
        np.testing.assert_allclose(rows[group], expected, rtol=1e-5, atol=1e-6)


def test_the_sum_is_what_is_kept(small: HyTRec) -> None:
    plain = copy.deepcopy(small)
    same = plain.state_dict()
    assert plain_weights(plain, same) is same
    add_features(small, FEATURES, _without_last(tastes()))
    weights = {name: value + 0.5 for name, value in small.state_dict().items()}
    kept = plain_weights(small, weights)
    assert parametrize.is_parametrized(small.item_table)
    plain.load_state_dict(dict(kept))
    small.load_state_dict(weights)
    torch.testing.assert_close(plain.item_table.weight, small.item_table.weight)


def test_items_without_events_are_no_negatives(small: HyTRec) -> None:
    counts = torch.tensor([3.0, 0.0, 1.0, 0.0])
    among = torch.tensor([1, 3])
    for count in (3, 4, 50):
        drawn = Negatives.drawn(counts, count=count, among=among)
        assert set(drawn.rows.tolist()) <= {1, 3}
    everyone = Negatives.drawn(counts, count=4, among=among)
    vectors, targets = torch.randn(5, small.width), torch.tensor([1, 3, 3, 1, 2])
    scores = vectors @ small.item_table.weight[1:5].T
    scores[:, 3] = -torch.inf
    scores[:4, 1] = -torch.inf  # row 2 stands for itself alone where it is the target
    expected = torch.nn.functional.cross_entropy(scores, targets - 1)
    torch.testing.assert_close(next_item_loss(small, vectors, targets, everyone), expected)


def test_features_and_own_rows_learn_at_the_tables_rate(small: HyTRec) -> None:
    options = TrainingOptions(item_rate=0.5)
    known = _without_last(tastes())
    cold = add_features(small, FEATURES, known)
    trainer = Trainer(small, known, options, cold=cold)
    own, rows = small.item_table.parameters()
    before = own.detach().clone(), rows.detach().clone()
    (group,) = [own for own in trainer._optimizer.param_groups if own["share"] == 0.5]
    assert {id(own), id(rows)} == {id(parameter) for parameter in group["params"]}
    for _ in trainer.epoch(0):
        pass
    assert not torch.equal(rows, before[1])
    new = torch.from_numpy(ROWS[IS_NEW])
    torch.testing.assert_close(own[new], before[0][new])


def test_a_training_goes_on_with_the_same_features_alone(sizes: ModelConfig, tmp_path: Path) -> None:
    options = TrainingOptions(epochs=1, batch_events=512)
    train(tastes(), Vocabulary(ROWS), output=tmp_path, config=sizes, options=options, features=FEATURES)
    other = ItemFeatures.of(["group=other"], ROWS, np.zeros_like(ROWS), items=ITEMS)
    for features in (other, None):
        with pytest.raises(RunError, match="made with another --item-table; resume with the same"):
            train(
                tastes(),
                Vocabulary(ROWS),
                output=tmp_path,
                config=sizes,
                options=options,
                features=features,
                resume=True,
            )


def feature_rows(model: HyTRec) -> torch.Tensor:
    _, rows = model.item_table.parameters()
    return rows.detach()


def _without_last(histories: Histories) -> Histories:
    kept = np.ones(histories.item_rows.size, bool)
    kept[histories.offsets[1:] - 1] = False
    return Histories(
        user_keys=histories.user_keys,
        offsets=np.concatenate([[0], np.cumsum(histories.lengths - 1)]),
        item_rows=histories.item_rows[kept],
        behavior_rows=histories.behavior_rows[kept],
        times=histories.times[kept],
    )
