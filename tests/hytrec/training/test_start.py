from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.proximity import proximity
from hytrec.data.split import Evaluation, Part, evaluation, training
from hytrec.evaluation.evaluate import RETRIEVER, evaluate
from hytrec.modeling.model import HyTRec, build_model
from hytrec.training import start
from hytrec.training.options import ItemStart, Reversal, TrainingOptions
from hytrec.training.start import Start, begin, kept_neighbors, reads_alike_backwards, spectral_table


def symmetric(items: int, *, density: float = 0.3) -> sparse.csr_matrix:
    random = np.random.default_rng(0)
    upper = np.triu(random.random((items, items)) * (random.random((items, items)) < density), 1)
    return sparse.csr_matrix((upper + upper.T).astype(np.float32))


def gram(similarities: sparse.csr_matrix, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Rank-`width` approximation of log(1 + S / 0.02) by its largest positive eigenvalues, scaled as the table is."""
    values, vectors = np.linalg.eigh(np.log1p(similarities.toarray().astype(np.float64) / 0.02))
    first = np.argsort(-values)[:width]
    product = (vectors[:, first] * np.maximum(values[first], 0)) @ vectors[:, first].T
    return product / np.mean(np.diag(product))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dense_items", [0, 2_000])
def test_the_table_holds_the_first_eigenpairs(dense_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_DENSE_ITEMS", dense_items)
    similarities = symmetric(60)
    table = spectral_table(similarities, width=8)
    assert (table.shape, str(table.dtype)) == ((62, 8), "float32")
    np.testing.assert_allclose(table[1:-1] @ table[1:-1].T, gram(similarities, 8), atol=1e-3)
    assert np.mean((table[1:-1] ** 2).sum(1)) == pytest.approx(1, abs=1e-5)
    assert not table[[0, -1]].any()


def test_a_table_cut_to_rows_is_made_symmetric_again() -> None:
    similarities = symmetric(30)
    one_sided = sparse.triu(similarities, format="csr")
    np.testing.assert_allclose(spectral_table(one_sided, width=4), spectral_table(similarities, width=4), atol=1e-5)


def test_a_small_catalogue_leaves_the_rest_of_the_width_empty() -> None:
    table = spectral_table(symmetric(5, density=1.0), width=8)
    assert np.isfinite(table).all()
    assert table[:, :5].any()
    assert not table[:, 5:].any()


def began(log: Histories, config: ModelConfig, **options: object) -> tuple[HyTRec, Start, Evaluation]:
    torch.manual_seed(0)
    model = build_model(config)
    known, validation = training(log), evaluation(log, Part.VALIDATION, items=config.items)
    near = proximity(known, items=config.items, keep=config.items)
    chosen = begin(model, known, near, validation, TrainingOptions(**options))  # type: ignore[arg-type]
    return model, chosen, validation


def test_it_sets_table_norm_and_window_sum(log: Histories, config: ModelConfig) -> None:
    model, chosen, validation = began(log, config)
    near = proximity(training(log), items=config.items, keep=config.items)
    torch.testing.assert_close(
        model.item_table.weight, torch.from_numpy(spectral_table(near, width=config.width)), atol=1e-5, rtol=0
    )
    assert model.user_norm.weight.unique().tolist() == pytest.approx([0.1])
    assert chosen.half_life in start.HALF_LIVES
    assert chosen.scale in start.SCALES
    assert model.window_sum.slot[-1].exp().item() == pytest.approx(chosen.scale)
    untrained = build_model(config)
    gains = [evaluate(one, validation, ks=(10,), rerank=False)[RETRIEVER]["ndcg@10"] for one in (model, untrained)]
    assert gains[0] > gains[1]


def test_a_random_table_is_left_alone(log: Histories, config: ModelConfig) -> None:
    model, chosen, _ = began(log, config, item_start=ItemStart.RANDOM, reversal=Reversal.OFF)
    torch.manual_seed(0)
    untouched = build_model(config).state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in model.state_dict().items())
    assert chosen == Start(half_life=None, scale=None, reversal=False)


def walks(*, back_and_forth: bool) -> Histories:
    """Everybody goes from an item to the next one; back and forth: half of them the other way."""
    random = np.random.default_rng(1)
    steps = np.where(np.arange(120) % 2, -1, 1) if back_and_forth else np.ones(120, np.int64)
    rows = np.concatenate([(random.integers(30) + step * np.arange(9)) % 30 + 1 for step in steps])
    return Histories(
        user_keys=np.arange(120),
        offsets=np.arange(121) * 9,
        item_rows=rows,
        behavior_rows=rows * 0,
        times=np.tile(1_000 + np.arange(9), 120),
    )


@pytest.mark.parametrize("back_and_forth", [True, False])
def test_histories_are_read_backwards_where_the_order_tells_little(back_and_forth: bool, config: ModelConfig) -> None:
    whole = walks(back_and_forth=back_and_forth)
    validation = evaluation(whole, Part.VALIDATION, items=30)
    assert reads_alike_backwards(training(whole), validation, items=30) is back_and_forth
    assert began(whole, config)[1].reversal is back_and_forth
    assert began(whole, config, reversal=Reversal.ON)[1].reversal
    assert not began(whole, config, reversal=Reversal.OFF)[1].reversal


@pytest.mark.parametrize(
    ("items", "neighbors", "kept"), [(1_682, 128, 1_000), (1_000_000, 64, 100), (10**8, 64, 64), (10**9, 0, 1)]
)
def test_a_large_catalogue_keeps_fewer_proximities(items: int, neighbors: int, kept: int) -> None:
    assert kept_neighbors(items, neighbors) == kept


def test_the_start_comes_from_the_training_part_alone(log: Histories, config: ModelConfig) -> None:
    ends = np.concatenate([log.offsets[1:][log.lengths >= 3] - place for place in (1, 2)])
    changed = log.item_rows.copy()
    changed[ends] = changed[ends] % 30 + 1
    other = replace(log, item_rows=changed)
    here, there = (began(each, config)[0].item_table.weight for each in (log, other))
    assert torch.equal(here, there)
