from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.proximity import neighbor_table, proximity
from hytrec.data.split import Part, evaluation, training
from hytrec.evaluation import fit_neighbors as module
from hytrec.evaluation.evaluate import RERANKER, RETRIEVER, evaluate
from hytrec.evaluation.fit_neighbors import ServedLists, fit_neighbors
from hytrec.modeling.model import HyTRec, build_model


def with_neighbors(log: Histories, config: ModelConfig) -> HyTRec:
    torch.manual_seed(0)
    model = build_model(config).eval().requires_grad_(False)
    assert model.neighbors is not None
    near = proximity(training(log), items=config.items, keep=config.items)
    model.neighbors.fill(*neighbor_table(near, model.neighbors.ids.shape[1]))
    return model


def test_the_scales_are_within_an_error_of_the_best(
    log: Histories, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HALF_LIVES", (1.0, 4.0))
    monkeypatch.setattr(module, "PAIRS", ((1.0, 1.0), (1.0, 4.0)))
    monkeypatch.setattr(module, "SOFTENINGS", (0.005, 0.1))
    monkeypatch.setattr(module, "STRENGTHS", (0.0, 1.0, 20.0))
    model = with_neighbors(log, config)
    validation = evaluation(log, Part.VALIDATION, items=config.items)
    chosen = fit_neighbors(model, ServedLists.of(model, validation))
    assert chosen is not None
    measured = evaluate(model, validation, ks=(10,))
    assert measured[RERANKER]["ndcg@10"] == pytest.approx(chosen.ndcg, abs=1e-6)
    assert measured[RETRIEVER]["ndcg@10"] < chosen.ndcg - 0.1
    assert model.neighbors is not None
    best = 0.0
    for strength, softening in product(module.STRENGTHS, module.SOFTENINGS):
        for half_lives in module.PAIRS:
            model.neighbors.choose(strength=strength, softening=softening, half_lives=half_lives)
            best = max(best, evaluate(model, validation, ks=(10,))[RERANKER]["ndcg@10"])
    assert best - 0.5 / np.sqrt(len(validation)) < chosen.ndcg <= best + 1e-6


def test_of_what_is_within_an_error_the_smallest_loss_is_taken() -> None:
    best, close, far = [1.0, 0.4, 0.6, 0.5], [0.9, 0.5, 0.6, 0.4], [0.1, 0.1, 0.1, 0.1]
    gains = torch.tensor([best, close, far], dtype=torch.float64)
    assert module._within_an_error(gains, 4, [3.0, 2.0, 1.0]) == 1
    assert module._within_an_error(gains, 4, [2.0, 3.0, 1.0]) == 0
    # The differences 0.1, -0.1, 0 and 0.1 of ten users: mean 0.01, error 0.017. Always 0.1 behind is no noise.
    assert module._within_an_error(gains[:2], 10, [3.0, 2.0]) == 1
    assert module._within_an_error(torch.tensor([[1.0] * 4, [0.9] * 4], dtype=torch.float64), 4, [3.0, 2.0]) == 0


def test_neighbors_that_mislead_are_not_used(log: Histories, config: ModelConfig) -> None:
    model = with_neighbors(log, config)
    assert model.neighbors is not None
    model.neighbors.weights.zero_()
    validation = evaluation(log, Part.VALIDATION, items=config.items)
    chosen = fit_neighbors(model, ServedLists.of(model, validation))
    assert chosen is not None
    assert chosen.strength == 0
    measured = evaluate(model, validation, ks=(10,))
    assert measured[RERANKER]["ndcg@10"] == pytest.approx(measured[RETRIEVER]["ndcg@10"])


def test_without_neighbors_there_is_nothing_to_fit(log: Histories, config: ModelConfig) -> None:
    model = build_model(replace(config, neighbors=0)).eval()
    lists = ServedLists.of(model, evaluation(log, Part.VALIDATION, items=config.items))
    assert fit_neighbors(model, lists) is None
