from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hytrec.signature import RETRIEVER
from hytrec_export.errors import RepositoryError
from hytrec_export.runtime.runners import OnnxRunner
from hytrec_export.verification.parity.golden import CATALOGUE_SCORES
from hytrec_export.verification.quality.fp16_emulation import Fp16EmulationRunner, hold_rounding, show_catalogue_scores

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((40, 64)).astype(np.float32)
WEIGHT = RANDOM.standard_normal((64, 32)).astype(np.float16)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """y = float32(float16(x) @ weight)."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "weight"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 32])],
        [numpy_helper.from_array(WEIGHT, "weight")],
    )
    path = tmp_path / "product.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def infer(runner: Any, feed: dict[str, Any]) -> Any:
    with runner as opened:
        return opened.infer(feed)


def test_a_product_is_rounded_before_and_after(product: Path) -> None:
    got = infer(Fp16EmulationRunner(product), {"x": X})["y"]
    exact = X.astype(np.float16).astype(np.float64) @ WEIGHT.astype(np.float64)
    np.testing.assert_array_equal(got, got.astype(np.float16))  # every value is one of float16's
    np.testing.assert_allclose(got, exact, rtol=2**-10, atol=2**-24)


def test_without_it_onnxruntime_rounds_nothing(product: Path) -> None:
    """When this fails, onnxruntime keeps the roundings by itself and `hold_rounding` can go."""
    got = infer(OnnxRunner(product), {"x": X})["y"]
    np.testing.assert_allclose(got, X @ WEIGHT.astype(np.float32), rtol=1e-4, atol=1e-4)


def test_every_rounded_value_is_held_and_nothing_else(product: Path) -> None:
    graph = onnx.load(product)
    assert hold_rounding(graph) == 2
    onnx.checker.check_model(graph)
    assert [node.op_type for node in graph.graph.node] == ["Cast", "Identity", "MatMul", "Identity", "Cast"]


def test_a_float32_graph_stays_as_it_is(built: Path) -> None:
    graph = onnx.load(built / RETRIEVER.name / "1" / "model.onnx")
    before = graph.SerializeToString()
    assert hold_rounding(graph) == 0
    assert graph.SerializeToString() == before


def test_the_retriever_shows_the_scores_of_all_rows(built: Path) -> None:
    graph = onnx.load(built / RETRIEVER.name / "1" / "model.onnx")
    show_catalogue_scores(graph)
    assert [value.name for value in graph.graph.output] == ["candidate_rows", CATALOGUE_SCORES]


def test_a_graph_without_topk_has_none(product: Path) -> None:
    graph = onnx.load(product)
    show_catalogue_scores(graph)
    assert [value.name for value in graph.graph.output] == ["y"]


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(RepositoryError, match=r"none\.onnx is missing; build the repository again$"),
        Fp16EmulationRunner(tmp_path / "none.onnx"),
    ):
        pass


def test_a_file_cut_short_is_told(product: Path) -> None:
    product.write_bytes(product.read_bytes()[:-50])
    with (
        pytest.raises(RepositoryError, match=r"product\.onnx cannot be run \(.+\); build the repository again$"),
        Fp16EmulationRunner(product),
    ):
        pass
