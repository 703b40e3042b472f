"""The fused operator, run by onnxruntime, against the plain recurrence in float64 on DESIGN's whole grid."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hytrec.modeling.delta_rule import CHUNK, chunked, reference
from hytrec.modeling.delta_rule.parallel import GROUP
from hytrec_export.exporters.lowering import delta_rule_of, fused
from hytrec_export.exporters.onnx_graph import EXAMPLE_SIZES
from hytrec_export.options import Lowering

NAMES = ("query", "key", "value", "beta", "log_decay", "state")
HEADS, SIZE = 3, 8
LONGEST = 10_240
SCAN_PRODUCTS = 7 + 5 + 2
"""Of the scan over so many events: compositions inside groups of 8 chunks, log2 rounds over 20 groups, applications."""
Inputs = dict[str, Tensor]


class Lowered(nn.Module):
    def __init__(self, lowering: Lowering, max_events: int) -> None:
        super().__init__()
        self.delta_rule = delta_rule_of(lowering, max_events=max_events)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.delta_rule(query, key, value, beta, log_decay, state)


def make_inputs(steps: int, *, keys: str = "random", decays: str = "random", batch: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(steps)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    key = nn.functional.normalize(normal(batch, steps, HEADS, SIZE), dim=-1)
    if keys == "one item":
        key = key[:, :1].expand_as(key)
    elif keys == "two in turn":
        key = key[:, torch.arange(steps) % min(2, steps)]
    if decays == "mixed":
        choices = torch.tensor([0.0, 1e-9, 1e-4, 0.9999], dtype=torch.float64)
        decay = choices[torch.randint(4, (batch, steps, HEADS), generator=generator)]
    elif decays == "remember":
        decay = torch.full((batch, steps, HEADS), 0.9999, dtype=torch.float64)
    else:
        decay = torch.sigmoid(3 + normal(batch, steps, HEADS))
    return {
        "query": nn.functional.normalize(normal(batch, steps, HEADS, SIZE), dim=-1),
        "key": key,
        "value": normal(batch, steps, HEADS, SIZE),
        "beta": torch.sigmoid(2 * normal(batch, steps, HEADS)),
        "log_decay": decay.clamp(min=1e-300).log().clamp(min=-30),
        "state": normal(batch, HEADS, SIZE, SIZE),
    }


def export(lowering: Lowering, max_events: int, path: Path) -> None:
    batch, steps = torch.export.Dim("B"), torch.export.Dim("T")
    example = make_inputs(EXAMPLE_SIZES["T"], batch=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Lowered(lowering, max_events).eval(),
            tuple(example[name].float() for name in NAMES),
            path,
            dynamo=True,
            opset_version=20,
            input_names=NAMES,
            output_names=("output", "after"),
            dynamic_shapes=tuple({0: batch} if name == "state" else {0: batch, 1: steps} for name in NAMES),
            verbose=False,
        )


@pytest.fixture(scope="module")
def fused_session(tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    path = tmp_path_factory.mktemp("fused") / "graph.onnx"
    export(Lowering.FUSED, 10_000, path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def chunked_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chunked") / "graph.onnx"
    export(Lowering.CHUNKED, LONGEST, path)
    return path


@pytest.fixture(scope="module")
def chunked_session(chunked_graph: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(chunked_graph, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def chunked_products(chunked_graph: Path) -> onnxruntime.InferenceSession:
    """The same graph, with every product of matrices as an output."""
    graph = onnx.load(chunked_graph)
    products = [node.output[0] for node in graph.graph.node if node.op_type == "MatMul"]
    graph.graph.ClearField("output")
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in products)
    return onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def product_sizes(session: Any, steps: int) -> list[int]:
    return [output.size for output in session.run(None, feed_of(make_inputs(steps)))]


def feed_of(inputs: Inputs) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.ascontiguousarray(inputs[name].float().numpy()) for name in NAMES}


def check(session: Any, inputs: Inputs) -> None:
    for got, want in zip(session.run(None, feed_of(inputs)), reference(**inputs), strict=True):
        assert got.shape == tuple(want.shape)
        scale = max(1.0, float(want.abs().max()))
        assert float(np.abs(got - want.numpy()).max()) <= 1e-4 * scale


@pytest.mark.parametrize("keys", ["random", "one item", "two in turn"])
@pytest.mark.parametrize("decays", ["random", "mixed", "remember"])
@pytest.mark.parametrize("steps", [1, 2, 63, 64, 65, 1_000])
def test_fused_equals_reference(fused_session: Any, steps: int, keys: str, decays: str) -> None:
    check(fused_session, make_inputs(steps, keys=keys, decays=decays))


@pytest.mark.parametrize(("keys", "decays"), [("random", "remember"), ("one item", "mixed")])
def test_fused_equals_reference_after_ten_thousand_steps(fused_session: Any, keys: str, decays: str) -> None:
    check(fused_session, make_inputs(10_000, keys=keys, decays=decays))


@pytest.mark.parametrize("batch", [2, 7])
def test_fused_takes_any_batch(fused_session: Any, batch: int) -> None:
    check(fused_session, make_inputs(65, keys="two in turn", decays="mixed", batch=batch))


@pytest.mark.parametrize("keys", ["random", "one item", "two in turn"])
@pytest.mark.parametrize("decays", ["random", "mixed", "remember"])
@pytest.mark.parametrize("steps", [1, 2, 8, 37, 63, 64, 65, 128, 129, 1_000])
def test_chunked_equals_reference(chunked_session: Any, steps: int, keys: str, decays: str) -> None:
    check(chunked_session, make_inputs(steps, keys=keys, decays=decays, batch=2))


@pytest.mark.parametrize(("keys", "decays"), [("random", "remember"), ("one item", "mixed"), ("two in turn", "mixed")])
def test_chunked_equals_reference_after_ten_thousand_steps(chunked_session: Any, keys: str, decays: str) -> None:
    check(chunked_session, make_inputs(10_000, keys=keys, decays=decays))


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("steps", [1, 65])
def test_chunked_takes_any_batch(chunked_session: Any, steps: int, batch: int) -> None:
    check(chunked_session, make_inputs(steps, keys="two in turn", decays="mixed", batch=batch))


@pytest.mark.parametrize("steps", [1, 63, 64, 65])
@pytest.mark.parametrize("lowering", ["fused", "chunked"])
def test_padding_leaves_a_state_exactly_as_it_is(request: pytest.FixtureRequest, lowering: str, steps: int) -> None:
    session: Any = request.getfixturevalue(f"{lowering}_session")
    feed = feed_of(make_inputs(steps, batch=2))
    feed["beta"][0] = feed["log_decay"][0] = 0
    _, after = session.run(None, feed)
    assert np.array_equal(after[0], feed["state"][0])
    assert not np.array_equal(after[1], feed["state"][1])


def test_chunked_pays_for_the_steps_of_a_short_call_only(chunked_products: Any) -> None:
    sizes = {steps: product_sizes(chunked_products, steps) for steps in (1, 64, 65)}
    assert sum(sizes[1]) * 30 < sum(sizes[64])
    assert sizes[1].count(0) == sizes[64].count(0) == SCAN_PRODUCTS
    assert 0 not in sizes[65]


def test_an_example_has_several_groups_of_chunks() -> None:
    """A size that is 1 while tracing becomes a constant of the graph."""
    assert EXAMPLE_SIZES["T"] > CHUNK * GROUP


def test_outside_an_export_fused_refuses() -> None:
    with pytest.raises(RuntimeError, match=r"^the fused delta rule is onnxruntime's operator; outside an export use "):
        fused(**make_inputs(3))


def test_the_scan_is_as_deep_as_the_longest_call_needs() -> None:
    delta_rule = delta_rule_of(Lowering.CHUNKED, max_events=129)
    assert isinstance(delta_rule, partial)
    assert delta_rule.func is chunked
    assert delta_rule.keywords == {"max_chunks": 3}
