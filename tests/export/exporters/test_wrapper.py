from __future__ import annotations

import inspect

import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.contract import Model
from hytrec.modeling.delta_rule import chunked
from hytrec.modeling.model import HyTRec, State, build_model
from hytrec.signature import ENCODER, GRAPHS, RERANKER, RETRIEVER, STATE
from hytrec_export.exporters.wrapper import CatalogueScores, split

CONFIG = ModelConfig(items=9, width=8, tadn_layers=2, softmax_layers=1, window=4, experts=2, dropout=0.0)


@pytest.fixture
def model() -> HyTRec:
    torch.manual_seed(0)
    return build_model(CONFIG).eval()


@pytest.mark.parametrize("served", GRAPHS, ids=lambda served: served.name)
def test_parameters_are_the_tables_inputs_in_its_order(served: Model, model: HyTRec) -> None:
    module = split(model, delta_rule=chunked)[served.name]
    assert tuple(inspect.signature(module.forward).parameters) == served.input_names()


def encoded(model: HyTRec) -> tuple[State, torch.Tensor, tuple[torch.Tensor, ...]]:
    events = (
        torch.tensor([[1, 2, 3], [4, 10, 0]]),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.tensor([[5, 9, 9], [7, 8, 0]]),
    )
    before = model.empty_state(2)
    after, last_memory = model.encode(before, *events)
    outputs = split(model, delta_rule=chunked)[ENCODER.name](*(getattr(before, t.name) for t in STATE), *events)
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
    names = [name for name in RETRIEVER.input_names() if hasattr(after, name)]
    inputs = (last_memory, *(getattr(after, name) for name in names), now)
    reading = model.read(*inputs)
    modules = split(model, delta_rule=chunked)
    candidates, excluded = torch.tensor([[1, 2], [3, 10]]), torch.tensor([[1], [0]])
    (scores,) = modules[RERANKER.name](*inputs, candidates)
    torch.testing.assert_close(scores, model.rerank(reading, candidates))
    (rows,) = modules[RETRIEVER.name](*inputs, excluded)
    assert torch.equal(rows, model.retrieve(reading, excluded))
    (catalogue,) = CatalogueScores(model=model)(*inputs)
    torch.testing.assert_close(catalogue, model.retrieve_scores(reading.user))
