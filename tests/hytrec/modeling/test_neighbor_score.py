from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from hytrec.config import Branches, ModelConfig
from hytrec.modeling.model import UserFeatures, build_model
from hytrec.modeling.neighbor_score import NeighborScore

ITEMS, NEIGHBORS, WINDOW = 12, 5, 6
HALF_LIVES = (2.0, 5.0)


def filled(*, seed: int = 0) -> NeighborScore:
    random = np.random.default_rng(seed)
    module = NeighborScore(items=ITEMS, neighbors=NEIGHBORS, window=WINDOW)
    ids, weights = np.zeros((ITEMS + 2, NEIGHBORS), np.int32), np.zeros((ITEMS + 2, NEIGHBORS), np.float32)
    for row in range(1, ITEMS + 1):
        others = random.permutation([other for other in range(1, ITEMS + 1) if other != row])[: random.integers(6)]
        ids[row, : others.size] = others
        weights[row, : others.size] = random.random(others.size)
    module.fill(ids, weights)
    module.choose(strength=3.0, softening=0.05, half_lives=HALF_LIVES)
    return module


def plain(module: NeighborScore, candidates: Tensor, recent: Tensor) -> Iterator[list[float]]:
    """The formula of the docstring in Python's floats, neighbor by neighbor."""
    ids, weights = module.ids.tolist(), module.weights.tolist()
    for rows, items in zip(candidates.tolist(), recent.tolist(), strict=True):
        scores = []
        for row in rows:
            terms = []
            for half_life in HALF_LIVES:
                nearness = sum(
                    0.5 ** ((len(items) - 1 - place) / half_life) * weight
                    for place, item in enumerate(items)
                    for near, weight in zip(ids[row], weights[row], strict=True)
                    if item and near == item and weight
                )
                terms.append(math.log(1 + nearness / 0.05))
            scores.append(3.0 * sum(terms) / len(terms))
        yield scores


RECENT = torch.tensor([[0, 0, 3, 7, 3, 13], [1, 1, 1, 2, 9, 4], [0] * 6])
CANDIDATES = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 13]] * 3)


@pytest.mark.parametrize("width", [6, 3])
def test_it_is_its_formula_also_for_windows_that_are_cut(width: int) -> None:
    for seed in range(5):
        module = filled(seed=seed)
        recent = RECENT[:, -width:]
        found = module(CANDIDATES, recent)
        wanted = torch.tensor(list(plain(module, CANDIDATES, recent)))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        assert (found[:2, :12] > 0).any()
        assert not found[2].any()  # nothing in the window
        assert not found[:, 12:].any()  # padding and the unknown item


def test_a_candidate_does_not_depend_on_the_others() -> None:
    module = filled()
    whole = module(CANDIDATES, RECENT)
    for place in range(CANDIDATES.shape[1]):
        torch.testing.assert_close(module(CANDIDATES[:, place : place + 1], RECENT)[:, 0], whole[:, place])


def test_a_reranked_score_is_the_retrievers_plus_the_neighbors() -> None:
    torch.manual_seed(0)
    config = ModelConfig(items=ITEMS, width=8, tadn_layers=1, softmax_layers=1, window=WINDOW, neighbors=NEIGHBORS)
    model = build_model(config).eval().requires_grad_(False)
    assert model.neighbors is not None
    model.neighbors.load_state_dict(filled().state_dict())
    items = torch.tensor([[3, 7, 3]])
    state, last_memory = model.encode(model.empty_state(1), items, torch.zeros_like(items), items + 1_000)
    readout = model.read(UserFeatures.of(state, last_memory, torch.tensor([[2_000]])))
    assert readout.recent_items.tolist() == [[0, 0, 0, 3, 7, 3]]
    rows = torch.arange(1, ITEMS + 1).unsqueeze(0)
    plainly = model.retrieve_scores(readout.user)[:, 1:-1]
    near = model.neighbors(rows, readout.recent_items)
    assert near.max() > 0.1
    torch.testing.assert_close(model.rerank(readout, rows), plainly + near, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "neighbors"),
    [({}, ITEMS), ({"neighbors": 4}, 4), ({"neighbors": 0}, 0), ({"branches": Branches.LONG}, ITEMS)],
)
def test_a_model_has_no_more_neighbors_than_it_reads(options: dict[str, object], neighbors: int) -> None:
    model = build_model(ModelConfig(items=ITEMS, width=8, **options))  # type: ignore[arg-type]
    assert (0 if model.neighbors is None else model.neighbors.ids.shape[1]) == neighbors
