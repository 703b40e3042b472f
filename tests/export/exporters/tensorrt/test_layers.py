from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.layers import check_layers, count_layers
from hytrec_export.exporters.tensorrt.log import Log
from hytrec_export.exporters.tensorrt.network import parse
from hytrec_export.exporters.tensorrt.package import TensorRT
from hytrec_export.options import Precision

END = "; the engine would not have the precision of the build, export the graph again$"


@pytest.fixture
def check(tensorrt: TensorRT) -> Callable[..., Any]:
    """Checks a graph; returns the layers' counts."""

    def run(graph: Path, precision: Precision = Precision.MIXED, *, exact_products: bool = False) -> Any:
        log = Log(tensorrt.module)
        builder = tensorrt.module.Builder(log.logger)
        network = parse(tensorrt.module, builder, graph, log)
        check_layers(network, precision=precision, graph=graph.name, exact_products=exact_products)
        return count_layers(network)

    return run


@pytest.mark.parametrize(
    ("precision", "product"), [(Precision.FLOAT32, "float32"), (Precision.MIXED, "float16")], ids=str
)
def test_products_in_the_builds_own_precision_pass(check: Any, toy: Any, precision: Precision, product: str) -> None:
    table = np.float16 if product == "float16" else np.float32
    assert check(toy.product(table=table, product=product), precision)["matrix_multiply"] == {product: 1}


def test_a_large_product_in_float32_fails_a_mixed_build(check: Any, toy: Any) -> None:
    message = r"^layer MatMul_of_c \(matrix_multiply\) of toy.onnx multiplies by 4096 weights in float32" + END
    with pytest.raises(BuildError, match=message):
        check(toy.product(table=np.float16, product="float32"))


def test_a_small_product_may_stay_float32(check: Any, toy: Any) -> None:
    graph = toy.write(
        ("MatMul", ["x", "down"], "a"),
        ("MatMul", ["a", "up"], "y"),
        constants={"down": np.ones((64, 2), np.float32), "up": np.ones((2, 64), np.float32)},
    )
    assert check(graph)["matrix_multiply"] == {"float32": 2}


def test_float16_in_a_float32_build_fails(check: Any, toy: Any) -> None:
    graph = toy.write(("Cast float16", ["x"], "a"), ("Cast float32", ["a"], "y"))
    with pytest.raises(BuildError, match=r"^layer \S+ \(cast\) of toy.onnx is float16 in a float32 build" + END):
        check(graph, Precision.FLOAT32)


@pytest.mark.parametrize(("operator", "kind"), [("Exp", "unary"), ("Sigmoid", "activation"), ("Softmax", "softmax")])
def test_what_must_be_exact_is_not_computed_in_float16(check: Any, toy: Any, operator: str, kind: str) -> None:
    graph = toy.write(("Cast float16", ["x"], "a"), (operator, ["a"], "b"), ("Cast float32", ["b"], "y"))
    message = rf"^layer \S+ \({kind}\) of toy.onnx computes in float16, which is for products and tables alone" + END
    with pytest.raises(BuildError, match=message):
        check(graph)


def test_the_delta_rules_products_stay_float32(check: Any, toy: Any) -> None:
    graph = toy.write(
        ("Cast float16", ["x"], "a"),
        ("Transpose", ["a"], "b"),
        ("MatMul", ["a", "b"], "c"),
        ("MatMul", ["c", "a"], "d"),
        ("Cast float32", ["d"], "y"),
    )
    assert check(graph)["matrix_multiply"] == {"float16": 2}
    message = (
        r"^layer MatMul_of_c \(matrix_multiply\) of toy.onnx is a product of the delta rule in float16, which loses "
        "the state" + END
    )
    with pytest.raises(BuildError, match=message):
        check(graph, exact_products=True)
