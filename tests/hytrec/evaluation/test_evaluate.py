from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hytrec.data.histories import Histories
from hytrec.data.split import Evaluation, Part, evaluation
from hytrec.evaluation.evaluate import RERANKER, RETRIEVER, evaluate, in_order, padded
from hytrec.modeling.model import HyTRec, UserFeatures


@pytest.fixture
def test_part(log: Histories) -> Evaluation:
    return evaluation(log, Part.TEST, items=30)


def plain_ranks(model: HyTRec, part: Evaluation, *, rerank: bool) -> list[int]:
    """Rank of every user's target, one user at a time."""
    ranks = []
    for index in range(len(part)):
        history = part.history(index)
        batch = padded([history])
        state, memory = model.encode(model.empty_state(1), batch.item_rows, batch.behavior_rows, batch.times)
        readout = model.read(UserFeatures.of(state, memory, torch.tensor([[part.now[index]]])))
        allowed = sorted(set(range(1, 31)) - set(history.item_rows.tolist()))
        rows = torch.tensor([allowed])
        scores = model.rerank(readout, rows)[0] if rerank else model.retrieve_scores(readout.user)[0, allowed]
        ranks.append(int((scores > scores[allowed.index(part.targets[index])]).sum()))
    return ranks


@pytest.mark.parametrize("rerank", [False, True])
@pytest.mark.parametrize("stretch", [5, 10_000])
def test_metrics_are_those_of_users_taken_one_by_one(
    model: HyTRec, test_part: Evaluation, rerank: bool, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hytrec.evaluation.evaluate._STRETCH_EVENTS", stretch)
    ranks = plain_ranks(model, test_part, rerank=rerank)
    measured = evaluate(model, test_part, ks=(3, 10))[RERANKER if rerank else RETRIEVER]
    for k in (3, 10):
        assert measured[f"hr@{k}"] == pytest.approx(np.mean([rank < k for rank in ranks]))
        gains = [1 / math.log2(rank + 2) if rank < k else 0 for rank in ranks]
        assert measured[f"ndcg@{k}"] == pytest.approx(np.mean(gains))
    assert ("auc" in measured) == (not rerank)


def test_progress_counts_every_user_and_training_mode_is_kept(model: HyTRec, test_part: Evaluation) -> None:
    done: list[int] = []
    model.train()
    result = evaluate(model, test_part, rerank=False, progress=done.append)
    assert sum(done) == len(test_part)
    assert model.training
    assert list(result) == [RETRIEVER]


def test_empty_places_stay_last_and_equal_scores_keep_their_order() -> None:
    rows, scores = torch.tensor([[4, 0, 7, 9]]), torch.tensor([[1.0, 9.0, 1.0, 2.0]])
    assert in_order(rows, scores).tolist() == [[9, 4, 7, 0]]
