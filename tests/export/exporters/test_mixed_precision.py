from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hytrec.config import ModelConfig
from hytrec.contract import Model
from hytrec.modeling.delta_rule import chunked
from hytrec.modeling.layers import MatrixProduct
from hytrec.modeling.model import HyTRec, build_model
from hytrec.run_folder import load_run
from hytrec.signature import ENCODER, GRAPHS, RERANKER, RETRIEVER
from hytrec.vector_signature import VECTOR_GRAPHS
from hytrec_export.errors import BuildError
from hytrec_export.exporters.mixed_precision import HalfLinear, HalfProduct, HalfTable, narrow_limit, to_mixed_precision
from hytrec_export.exporters.onnx_graph import OPSETS
from hytrec_export.exporters.precision_check import Products, check_precision
from hytrec_export.exporters.wrapper import split
from hytrec_export.options import Lowering, Precision
from hytrec_export.runtime.item_vectors import ItemTable, with_lookup
from hytrec_export.runtime.runners import Runner, TorchRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.parity.shape_grid import InputGenerator, ShapeCase
from hytrec_export.verification.quality.fp16_emulation import Fp16EmulationRunner


@pytest.fixture(scope="module")
def model(wide_run: Path) -> HyTRec:
    return load_run(wide_run).model.eval()


@pytest.fixture(scope="module")
def graphs(wide_graphs: Any) -> dict[str, Path]:
    """Mixed, chunked."""
    made: dict[str, Path] = wide_graphs(Precision.MIXED, VECTOR_GRAPHS)
    return made


def runner_of(graphs: dict[str, Path], served: Model, settings: ServingSettings) -> Runner:
    file = graphs[served.name]
    return with_lookup(Fp16EmulationRunner(file), served.name, ItemTable.find(file.parent, settings))


def linear(width: int, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(width)
    return nn.Linear(width, 24, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
def test_a_half_linear_layer_rounds_both_sides_and_the_product_and_adds_in_float32(bias: bool) -> None:
    layer = linear(32, bias=bias)
    x = torch.randn(5, 32)
    weight, own_bias = layer.weight.detach(), layer.bias.detach() if bias else None
    got = HalfLinear(weight=weight, bias=own_bias)(x)
    exact = x.half().double() @ weight.T.half().double()
    want = exact.half().float() + (own_bias if own_bias is not None else 0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=1e-3, atol=0)
    assert torch.equal(want if not bias else want - layer.bias.detach(), exact.half().float()) or bias


def test_a_half_table_gives_float32_rows() -> None:
    weight = torch.randn(7, 3)
    rows = HalfTable(weight=weight)(torch.tensor([[0, 6]]))
    assert rows.dtype == torch.float32
    assert torch.equal(rows, weight.half().float()[[0, 6]][None])


def test_a_half_product_takes_float32_or_float16() -> None:
    a, b = torch.randn(4, 8), torch.randn(8, 3)
    assert torch.equal(HalfProduct()(a, b), HalfProduct()(a, b.half()))
    assert HalfProduct()(a, b).dtype == torch.float32


def test_the_copy_is_mixed_and_the_model_stays(model: HyTRec) -> None:
    before = {name: values.clone() for name, values in model.state_dict().items()}
    mixed = to_mixed_precision(model)
    kinds = {type(module) for module in mixed.modules()}
    assert {HalfLinear, HalfTable, HalfProduct} <= kinds
    assert not kinds & {nn.Embedding, MatrixProduct}
    assert {name for name, module in mixed.named_modules() if isinstance(module, nn.Linear)} == {
        "layers.0.beta",
        "layers.0.decay.gate",
        "reranker.mixture.router",
        "reranker.score",
    }
    assert all(parameter.dtype == torch.float32 for parameter in mixed.parameters())
    assert not any(parameter.requires_grad for parameter in mixed.parameters())
    assert mixed.empty_state(1).memory.dtype == torch.float32
    for name, values in model.state_dict().items():
        assert torch.equal(values, before[name])


@pytest.mark.parametrize(
    ("sizes", "narrow"),
    [
        ({"width": 16, "heads": 2, "experts": 3}, 3),
        ({"width": 16, "heads": 8, "experts": 3, "expert_width": 16}, 8),
        ({"width": 4, "heads": 2, "experts": 6}, 3),  # the router is as wide as the model
        ({"width": 16, "heads": 2, "experts": 6, "items": 2}, 3),
    ],
)
def test_narrow_is_what_no_float16_product_is(sizes: dict[str, int], narrow: int) -> None:
    config = ModelConfig(**{"items": 40, "tadn_layers": 1, "softmax_layers": 1, "window": 4, **sizes})  # type: ignore[arg-type]
    assert narrow_limit(build_model(config)) == narrow


def spoil_linear(model: HyTRec) -> None:
    model.short.layers[0].ffn.up.weight[0, 0] = -70_000.0  # type: ignore[union-attr,operator]


def spoil_table(model: HyTRec) -> None:
    model.item_table.weight[3, 1] = torch.inf


def spoil_kept(model: HyTRec) -> None:
    model.reranker.score.weight[0, 0] = 1e6


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(spoil_linear, r"short\.layers\.0\.ffn\.up holds a weight of 7e\+04"), (spoil_table, "item_table .* of inf")],
)
def test_a_weight_that_float16_cannot_hold_is_told(model: HyTRec, spoil: Callable[[HyTRec], None], told: str) -> None:
    model = copy.deepcopy(model).requires_grad_(requires_grad=False)
    spoil(model)
    with pytest.raises(BuildError, match=rf"^{told}.* and float16 ends at 65504; build without --fp16, or train again"):
        to_mixed_precision(model)


def test_what_stays_float32_may_be_large(model: HyTRec) -> None:
    model = copy.deepcopy(model).requires_grad_(requires_grad=False)
    spoil_kept(model)
    assert float(to_mixed_precision(model).reranker.score.weight[0, 0]) == 1e6


def loaded(graphs: dict[str, Path], served: Model) -> Any:
    return onnx.load(graphs[served.name])


def test_weights_and_tables_are_float16_in_the_file(graphs: dict[str, Path]) -> None:
    for served in GRAPHS:
        graph = loaded(graphs, served)
        types = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
        weights = {name: number for name, number in types.items() if name.endswith("weight")}
        large = {name for name in weights if "norm" not in name}
        assert "model.behavior_table.weight" in large
        assert ("model.item_table.weight" in large) is (served is RETRIEVER)  # the others are given its rows
        assert {weights[name] for name in large} == {onnx.TensorProto.FLOAT16}
        props = {entry.key: entry.value for entry in graph.metadata_props}
        assert props["precision"] == "mixed-float16"
        assert graph.opset_import[0].version == OPSETS[Lowering.CHUNKED]


def test_products_are_counted(graphs: dict[str, Path], model: HyTRec) -> None:
    narrow = narrow_limit(model)
    counts = {served: check_precision(loaded(graphs, served), model="m", narrow=narrow) for served in GRAPHS}
    assert counts[ENCODER].float16 == 8  # query, key, value, gate and output; three of the feed-forward block
    assert counts[ENCODER].float32 > 20  # the delta rule
    # four projections, two products, three of the block; query, read, two of the fusion, three of the block; catalogue
    assert counts[RETRIEVER] == Products(float16=17, float32=2)  # a memory read, the window sum
    # two memory reads, router and score, the window sum, repeated items of the window, candidates and user vector
    assert counts[RERANKER] == Products(float16=28, float32=6)


def test_neighbors_are_stored_in_float16_and_read_in_float32(model: HyTRec) -> None:
    assert model.neighbors is not None
    mixed = to_mixed_precision(model).neighbors
    assert mixed is not None
    assert (mixed.weights.dtype, model.neighbors.weights.dtype) == (torch.float16, torch.float32)
    rows, recent = torch.arange(model.items + 2).unsqueeze(0), torch.tensor([[0, 3, 5, 3, 1, 40, 41, 7]])
    scales = {"strength": 2.0, "softening": 0.05, "half_lives": (1.0, 4.0)}
    exact = copy.deepcopy(model.neighbors)
    for neighbors in (mixed, exact):
        neighbors.choose(**scales)  # type: ignore[arg-type]
    assert mixed(rows, recent).dtype == torch.float32
    assert exact(rows, recent).max() > 0.1
    torch.testing.assert_close(mixed(rows, recent), exact(rows, recent), atol=2e-3, rtol=0)


def test_a_module_that_was_forgotten_is_told(graphs: dict[str, Path], model: HyTRec) -> None:
    """The float32 graph of the same module, cast by nobody, fails."""
    graph = loaded(graphs, RETRIEVER)
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "model.user_query.weight")
    single = onnx.numpy_helper.to_array(weight).astype(np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(single, weight.name))
    with pytest.raises(BuildError, match=r"^MatMul \S+ of hytrec_retriever is .*float32.*a weight of 80 x 80; let "):
        check_precision(graph, model=RETRIEVER.name)


def test_the_file_says_what_the_modules_say_rounding_for_rounding(
    graphs: dict[str, Path], model: HyTRec, wide_settings: ServingSettings
) -> None:
    """Sums in another order move a float16 result by its last digit: that is all that may differ, not for all.

    A rounding that the file lacks, or has too many, would move the scores of all users by about what it is worth.
    """
    maker = InputGenerator(wide_settings, behaviors=2)
    corner = ShapeCase(batch=64, events=70, candidates=9, excluded=2)
    state, events = maker.inputs(corner)
    now, candidates, _ = maker.question(corner, state)
    feed = state | events | {"now_s": now, "candidate_rows": candidates, "last_memory": state["memory"][:, -1].copy()}
    single, mixed = (split(each, delta_rule=chunked) for each in (model, to_mixed_precision(model)))

    def answer(runner: Any, served: Model) -> Any:
        with runner as opened:
            return opened.infer({name: feed[name] for name in served.input_names()})

    for served, output in ((ENCODER, "next_memory"), (RERANKER, "raw_scores")):
        names = {"input_names": served.input_names(), "output_names": served.output_names()}
        want, exact = (answer(TorchRunner(each[served.name], **names), served)[output] for each in (mixed, single))
        got = answer(runner_of(graphs, served, wide_settings), served)[output]
        rounding = np.abs(want - exact).mean()
        assert 0 < rounding < 1e-2 * np.abs(exact).max()
        by_user = np.abs(got - want).reshape(64, -1).mean(1)
        assert np.quantile(by_user, 0.25) < 0.25 * rounding
        assert by_user.mean() < rounding


def test_a_call_of_padding_alone_leaves_the_state_exactly_as_it_is(
    graphs: dict[str, Path], wide_settings: ServingSettings
) -> None:
    state, events = InputGenerator(wide_settings, behaviors=2).inputs(
        ShapeCase(batch=4, events=70, candidates=9, excluded=2)
    )
    assert not events["event_times"][1].any()
    with runner_of(graphs, ENCODER, wide_settings) as runner:
        after = runner.infer(state | events)
    for name, before in state.items():
        assert np.array_equal(after[f"next_{name}"][1], before[1]), name
    assert state["memory"][1].any()
    assert not np.array_equal(after["next_memory"][2], state["memory"][2])
