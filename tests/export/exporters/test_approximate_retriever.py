"""Approximate retrieval in PyTorch and in its exported graph, against the exact retriever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from hytrec.config import ModelConfig
from hytrec.contract import DType
from hytrec.modeling.model import HyTRec, UserFeatures, build_model
from hytrec.signature import RETRIEVER
from hytrec_export.exporters.approximate_retriever import ApproximateRetriever, EightBitScan
from hytrec_export.exporters.onnx_graph import export_graphs
from hytrec_export.exporters.wrapper import Retriever
from hytrec_export.options import Lowering, Retrieval
from hytrec_export.runtime.runners import OnnxRunner
from hytrec_export.settings import ServingSettings

ITEMS = 3_000
CONFIG = ModelConfig(
    items=ITEMS, behaviors=0, width=16, heads=2, tadn_layers=1, softmax_layers=1, window=4, experts=2, dropout=0.0
)
FEW = ModelConfig(items=9, width=8, tadn_layers=1, softmax_layers=1, window=4, experts=2, dropout=0.0)


def model_of(config: ModelConfig) -> HyTRec:
    torch.manual_seed(1)
    model = build_model(config).eval().requires_grad_(requires_grad=False)
    model.item_table.weight.copy_(model.item_table.weight * torch.rand(config.items + 2, 1))
    return model


@pytest.fixture(scope="module")
def model() -> HyTRec:
    model = model_of(CONFIG)
    model.item_table.weight[7] = model.item_table.weight[3]  # a tie
    return model


def features_of(model: HyTRec, users: int) -> UserFeatures:
    generator = torch.Generator().manual_seed(1)
    state = model.empty_state(users)
    size = model.width // model.heads
    return UserFeatures.of(
        state._replace(
            window_items=torch.randint(1, model.items + 2, state.window_items.shape, generator=generator),
            window_times=torch.full_like(state.window_times, 1_000),
            long_vector=torch.randn(state.long_vector.shape, generator=generator),
        ),
        torch.randn((users, model.heads, size, size), generator=generator),
        torch.full((users, 1), 2_000),
    )


def both(model: HyTRec, users: int, excluded: Tensor) -> tuple[Tensor, Tensor]:
    features = features_of(model, users)
    (exact,) = Retriever(model=model)(*features, excluded)
    (approximate,) = ApproximateRetriever(model=model)(*features, excluded)
    return exact, approximate


def recall(exact: Any, approximate: Any) -> float:
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(exact, approximate, strict=True)]))


def test_scanned_scores_are_the_exact_ones_up_to_a_factor_of_the_user(model: HyTRec) -> None:
    user = torch.randn(3, CONFIG.width, generator=torch.Generator().manual_seed(2))
    exact = user @ model.item_table.weight.T
    scanned = EightBitScan(table=model.item_table.weight)(user) * (user.abs().amax(1, keepdim=True) / 63)
    assert float((scanned - exact).std()) < 0.02 * float(exact.std())


def test_what_is_found_stands_in_the_exact_order(model: HyTRec) -> None:
    excluded = torch.randint(0, ITEMS, (8, 20), generator=torch.Generator().manual_seed(3))
    exact, approximate = both(model, 8, excluded)
    assert exact.shape == approximate.shape == (8, 500)
    assert recall(exact, approximate) > 0.999
    scores = model.retrieve_scores(model.read(features_of(model, 8)).user)
    assert float(scores.gather(1, approximate).diff(dim=1).max()) < 1e-5
    for rows, hidden in zip(approximate.numpy(), excluded.numpy(), strict=True):
        assert not np.isin(rows, [*hidden, 0, ITEMS + 1]).any()
        assert np.unique(rows).size == 500


@pytest.mark.parametrize("excluded", [[[0]], [[1, 2, 3, 4, 5, 6, 7, 8]], [[1, 2, 3, 4, 5, 6, 7, 8, 9]]])
def test_places_are_empty_where_fewer_items_are_left(excluded: list[list[int]]) -> None:
    exact, approximate = both(model_of(FEW), 1, torch.tensor(excluded))
    assert torch.equal(exact, approximate)
    assert int((approximate > 0).sum()) == 9 - len(set(excluded[0]) - {0})


def test_a_user_vector_of_zeros_finds_the_first_rows(model: HyTRec) -> None:
    scores = EightBitScan(table=model.item_table.weight)(torch.zeros(1, CONFIG.width))
    assert float(scores.abs().max()) < 1e-4


@pytest.fixture(scope="module")
def graph(model: HyTRec, make_once: Callable[..., Path], traced_once: None) -> Path:
    settings = ServingSettings(
        fingerprint="0" * 32,
        items=ITEMS,
        sizes=CONFIG.sizes(),
        item_key_type=DType.INT64,
        behavior_key_type=DType.INT64,
    )

    def make(folder: Path) -> None:
        export_graphs(
            model,
            folder,
            settings=settings,
            lowering=Lowering.FUSED,
            retrieval=Retrieval.APPROXIMATE,
            graphs=(RETRIEVER,),
        )

    return make_once("approximate-retriever", make) / f"{RETRIEVER.name}.onnx"


def test_the_graph_scans_integers_by_standard_operators(graph: Path) -> None:
    exported = onnx.load(graph).graph
    operators = [node.op_type for node in exported.node]
    assert operators.count("MatMulInteger") == 1
    assert all(not node.domain for node in exported.node)
    codes = next(tensor for tensor in exported.initializer if tensor.name.endswith("codes"))
    assert (list(codes.dims), codes.data_type) == ([CONFIG.width, ITEMS + 2], onnx.TensorProto.INT8)


@pytest.mark.parametrize("users", [1, 5])
def test_the_graph_retrieves_what_pytorch_does(model: HyTRec, graph: Path, users: int) -> None:
    excluded = torch.randint(0, ITEMS, (users, 3), generator=torch.Generator().manual_seed(4))
    features = features_of(model, users)
    (wanted,) = ApproximateRetriever(model=model)(*features, excluded)
    tensors = zip(RETRIEVER.input_names(), (*features, excluded), strict=True)
    with OnnxRunner(graph) as runner:
        got = runner.infer({name: tensor.numpy() for name, tensor in tensors})["candidate_rows"]
    assert recall(wanted.numpy(), got) > 0.999
    scores = model.retrieve_scores(model.read(features).user).numpy()
    ordered = np.take_along_axis(scores, got, 1)
    assert (np.diff(ordered, axis=1) <= 1e-5).all()


def test_equal_scores_go_by_row(model: HyTRec, graph: Path) -> None:
    features = features_of(model, 1)._replace(window_items=torch.full((1, CONFIG.window), 3))
    tensors = zip(RETRIEVER.input_names(), (*features, torch.zeros(1, 1, dtype=torch.int64)), strict=True)
    with OnnxRunner(graph) as runner:
        rows = runner.infer({name: tensor.numpy() for name, tensor in tensors})["candidate_rows"][0].tolist()
    assert rows.index(7) == rows.index(3) + 1
