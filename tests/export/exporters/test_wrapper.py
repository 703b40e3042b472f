from __future__ import annotations

import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.modeling.delta_rule import chunked
from hytrec.modeling.model import HyTRec, State, UserFeatures, build_model
from hytrec.signature import ENCODER, RERANKER, RETRIEVER, STATE, USER_FEATURES
from hytrec.vector_signature import VECTOR_ENCODER, VECTOR_RERANKER, VECTOR_RETRIEVER
from hytrec_export.exporters.mixed_precision import to_mixed_precision
from hytrec_export.exporters.wrapper import CatalogueScores, split

CONFIG = ModelConfig(items=9, width=8, tadn_layers=2, softmax_layers=1, window=4, experts=2, dropout=0.0)


@pytest.fixture
def model() -> HyTRec:
    torch.manual_seed(0)
    return build_model(CONFIG).eval()


def test_state_and_user_features_are_the_tables_in_its_order() -> None:
    assert State._fields == tuple(tensor.name for tensor in STATE)
    assert UserFeatures._fields == tuple(tensor.name for tensor in USER_FEATURES)


def encoded(model: HyTRec) -> tuple[State, torch.Tensor, tuple[torch.Tensor, ...]]:
    events = (
        torch.tensor([[1, 2, 3], [4, 10, 0]]),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.tensor([[5, 9, 9], [7, 8, 0]]),
    )
    before = model.empty_state(2)
    after, last_memory = model.encode(before, *events)
    outputs = split(model, delta_rule=chunked)[ENCODER.name](*before, *events)
    return after, last_memory, outputs


def test_the_encoder_returns_the_state_in_the_tables_order(model: HyTRec) -> None:
    after, last_memory, outputs = encoded(model)
    assert len(outputs) == len(ENCODER.outputs)
    for tensor, output in zip(STATE, outputs, strict=False):
        assert torch.equal(output, getattr(after, tensor.name)), tensor.name
    assert torch.equal(outputs[-1], last_memory)


def test_readers_answer_as_the_model_does(model: HyTRec) -> None:
    after, last_memory, _ = encoded(model)
    now = torch.tensor([[100], [100]])
    features = UserFeatures.of(after, last_memory, now)
    readout = model.read(features)
    modules = split(model, delta_rule=chunked)
    candidates, excluded = torch.tensor([[1, 2], [3, 10]]), torch.tensor([[1], [0]])
    (scores,) = modules[RERANKER.name](*features, candidates)
    torch.testing.assert_close(scores, model.rerank(readout, candidates))
    (rows,) = modules[RETRIEVER.name](*features, excluded)
    assert torch.equal(rows, model.retrieve(readout, excluded))
    (catalogue,) = CatalogueScores(model=model)(*features)
    torch.testing.assert_close(catalogue, model.retrieve_scores(readout.user))


@pytest.mark.parametrize("mixed", [False, True])
def test_given_vectors_do_what_looking_them_up_does(mixed: bool, model: HyTRec) -> None:
    torch.nn.init.normal_(model.reranker.score.weight)
    model = to_mixed_precision(model) if mixed else model
    plain, given = (split(model, delta_rule=chunked, host_lookup=lookup) for lookup in (False, True))
    events = (
        torch.tensor([[1, 2, 3, 7, 5], [4, 10, 0, 0, 0], [0, 0, 0, 0, 0]]),
        torch.zeros(3, 5, dtype=torch.int64),
        torch.tensor([[5, 9, 9, 20, 21], [7, 8, 0, 0, 0], [0, 0, 0, 0, 0]]),
    )
    state = model.empty_state(3)
    for _ in range(2):  # from nothing, and from a window
        vectors = model.item_table(state.window_items), model.item_table(events[0])
        wanted = plain[ENCODER.name](*state, *events)
        *got, slid = given[VECTOR_ENCODER.name](*state, *events, *vectors)
        assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
        state = State._make(got[: len(STATE)])
        assert torch.equal(slid, model.item_table(state.window_items))
    features = UserFeatures.of(state, got[-1], torch.tensor([[100], [30], [1]]))
    excluded = torch.tensor([[1], [0], [9]])
    (rows,) = plain[RETRIEVER.name](*features, excluded)
    same, retrieved = given[VECTOR_RETRIEVER.name](*features, excluded)
    assert torch.equal(same, rows)
    assert torch.equal(retrieved, model.item_table(rows))
    (scores,) = plain[RERANKER.name](*features, rows)
    assert torch.equal(given[VECTOR_RERANKER.name](*features, rows, slid, retrieved)[0], scores)


def test_vectors_of_empty_places_say_nothing(model: HyTRec) -> None:
    """A session begins with zeros in their place."""
    torch.nn.init.normal_(model.reranker.score.weight)
    given = split(model, delta_rule=chunked, host_lookup=True)
    events = torch.tensor([[3]]), torch.tensor([[0]]), torch.tensor([[50]])
    scores = []
    for empty in (torch.zeros(1, 4, 8), model.item_table(torch.zeros(1, 4, dtype=torch.int64))):
        vectors = model.item_table(events[0])
        *state, last_memory, slid = given[VECTOR_ENCODER.name](*model.empty_state(1), *events, empty, vectors)
        features = UserFeatures.of(State._make(state), last_memory, torch.tensor([[60]]))
        candidates = torch.tensor([[1, 2, 9]])
        scores.append(given[VECTOR_RERANKER.name](*features, candidates, slid, model.item_table(candidates))[0])
    assert torch.equal(*scores)
    assert scores[0].unique().numel() == 3
