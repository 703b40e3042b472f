from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hytrec.config import Branches, ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.split import Evaluation, Part, evaluation
from hytrec.evaluation.evaluate import RERANKER, RETRIEVER, evaluate
from hytrec.evaluation.fit_neighbors import ServedLists
from hytrec.modeling.model import HyTRec, build_model
from hytrec.modeling.reranker import Reranker, RerankerPart
from hytrec.modeling.reranker_gains import CORRECTION, Gain
from hytrec.training import correction
from hytrec.training.correction import fit_correction


@pytest.fixture
def validation(log: Histories) -> Evaluation:
    return evaluation(log, Part.VALIDATION, items=30)


def fresh(config: ModelConfig, **changes: object) -> HyTRec:
    torch.manual_seed(0)
    return build_model(replace(config, **changes)).eval().requires_grad_(False)  # type: ignore[arg-type]


def learnable(log: Histories, model: HyTRec) -> None:
    """A retriever that says nothing, and rows from which the next item can be told: everybody takes them in order."""
    model.window_sum.slot.fill_(-torch.inf)
    model.user_norm.weight.zero_()
    assert (np.diff(log.history(30).item_rows) % 30 == 1).all()


def test_it_learns_what_the_retriever_lacks(config: ModelConfig, log: Histories, validation: Evaluation) -> None:
    model = fresh(config, neighbors=0, dropout=0.0)
    learnable(log, model)
    many = replace(validation, users=np.tile(validation.users, 40), events=np.tile(validation.events, 40))
    before = evaluate(model, validation, ks=(10,))
    fitted = fit_correction(model, ServedLists.of(model, many), candidates=30, seed=0)
    after = evaluate(model, validation, ks=(10,))
    assert after[RETRIEVER] == before[RETRIEVER]
    assert after[RERANKER]["ndcg@10"] > before[RERANKER]["ndcg@10"] + 0.1
    assert (fitted.epochs, fitted.users) == (correction.EPOCHS, len(many))
    assert fitted.weight > 0
    assert fitted.gains[CORRECTION].gain > 10 * fitted.gains[CORRECTION].error > 0
    assert set(fitted.gains) == {CORRECTION, RerankerPart.MEMORY, RerankerPart.WINDOW, RerankerPart.EXPERTS}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_user_is_scored_by_what_was_fitted_on_others(
    config: ModelConfig, validation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correction that knows its own users by heart gains nothing: it is measured on those it has not seen."""
    seen: list[set[int]] = []
    real = correction._fits

    def listening(*arguments: object, **named: object) -> object:
        seen.append(set(arguments[3].tolist()))  # type: ignore[attr-defined]
        return real(*arguments, **named)  # type: ignore[arg-type]

    asked: list[tuple[int, set[int]]] = []
    held = correction._held_out

    def asking(fits: list[Reranker], table: torch.Tensor, lists: object, folds: torch.Tensor) -> torch.Tensor:
        asked.extend((fold, set(torch.nonzero(folds == fold).flatten().tolist())) for fold in range(len(fits)))
        return held(fits, table, lists, folds)  # type: ignore[arg-type]

    monkeypatch.setattr(correction, "_fits", listening)
    monkeypatch.setattr(correction, "_held_out", asking)
    model = fresh(config)
    fit_correction(model, ServedLists.of(model, validation), candidates=5, seed=0)
    assert len(asked) >= correction.FOLDS
    for fold, members in asked:
        assert members
        assert not members & seen[fold]


def test_no_correction_is_better_than_one_that_is_worse(
    config: ModelConfig, validation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correction, "WEIGHTS", (0.0,))
    model = fresh(config)
    fitted = fit_correction(model, ServedLists.of(model, validation), candidates=5, seed=0)
    assert (fitted.epochs, fitted.weight) == (0, 0.0)
    assert fitted.gains[CORRECTION] == fitted.gains[RerankerPart.EXPERTS] == Gain(gain=0.0, error=0.0)
    assert fitted.ndcg == pytest.approx(evaluate(model, validation, ks=(10,))[RERANKER]["ndcg@10"])


def test_the_neighbors_gain_is_measured_too(config: ModelConfig, validation: Evaluation) -> None:
    model = fresh(config, branches=Branches.NONE)
    assert model.neighbors is not None
    random = np.random.default_rng(0)
    ids = random.integers(1, 31, model.neighbors.ids.shape).astype(np.int32)
    model.neighbors.fill(ids, random.random(ids.shape).astype(np.float32))
    model.neighbors.choose(strength=3.0, softening=0.1, half_lives=(1.0, 1.0))
    fitted = fit_correction(model, ServedLists.of(model, validation), candidates=5, seed=0)
    found = evaluate(model, validation, ks=(10,))
    gain = found[RERANKER]["ndcg@10"] - found[RETRIEVER]["ndcg@10"]
    assert fitted.gains[RerankerPart.NEIGHBORS].gain == pytest.approx(gain, abs=1e-6)
    assert set(fitted.gains) == {CORRECTION, RerankerPart.NEIGHBORS}


def test_parts_are_left_out_of_a_view_of_the_same_weights(model: HyTRec) -> None:
    without = model.reranker.without(RerankerPart.EXPERTS)
    assert without.parts == (RerankerPart.MEMORY, RerankerPart.WINDOW)
    assert model.reranker.parts == (RerankerPart.MEMORY, RerankerPart.WINDOW, RerankerPart.EXPERTS)
    assert without.score.weight is model.reranker.score.weight
