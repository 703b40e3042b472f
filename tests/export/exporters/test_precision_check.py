"""Graphs made by hand, one fault each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hytrec_export.errors import BuildError
from hytrec_export.exporters.precision_check import Products, check_precision

F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16
WEIGHT = np.linspace(-1, 1, 64 * 64).reshape(64, 64)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op_type, inputs.split(), [output], name=f"the_{output}", **attributes)


def graph(nodes: Sequence[Any], weights: dict[str, Any], *, inputs: str = "x", output: int = F32) -> Any:
    """Inputs and one output, y, of (B, 64); `inputs` are float32."""
    made = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, F32, ["B", 64]) for name in inputs.split()],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)])


def half_product(source: str = "x", weight: str = "w") -> list[Any]:
    return [
        node("Cast", source, "h", to=F16),
        node("MatMul", f"h {weight}", "p"),
        node("Cast", "p", "y", to=F32),
    ]


def half(values: Any) -> Any:
    return values.astype(np.float16)


def single(values: Any) -> Any:
    return values.astype(np.float32)


def test_a_float16_product_of_a_large_weight_passes() -> None:
    found = check_precision(graph(half_product(), {"w": half(WEIGHT)}), model="m")
    assert found == Products(float16=1, float32=0)


def test_a_weight_of_zeros_and_ones_may_be_float16() -> None:
    assert check_precision(graph(half_product(), {"w": half(np.eye(64))}), model="m").float16 == 1


def test_a_weight_may_be_moved_before_it_is_multiplied() -> None:
    moved = [node("Transpose", "w", "t"), *half_product(weight="t")]
    assert check_precision(graph(moved, {"w": half(WEIGHT)}), model="m").float16 == 1
    single_moved = [node("Transpose", "w", "t"), node("MatMul", "x t", "y")]
    with pytest.raises(BuildError, match="a weight of 64 x 64"):
        check_precision(graph(single_moved, {"w": single(WEIGHT)}), model="m")


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_a_large_float32_product_is_told(op_type: str) -> None:
    with pytest.raises(
        BuildError,
        match=rf"^{op_type} the_y of m is float32 and must be float16, being a product with a weight of 64 x 64; "
        r"let hytrec_export.exporters.mixed_precision take its module's place$",
    ):
        check_precision(graph([node(op_type, "x w", "y")], {"w": single(WEIGHT)}), model="m")


def test_a_weight_that_is_cast_back_to_float32_is_told() -> None:
    nodes = [node("Cast", "w", "wide", to=F32), node("MatMul", "x wide", "y")]
    with pytest.raises(BuildError, match=r"^MatMul the_y of m is float32 and must be float16"):
        check_precision(graph(nodes, {"w": half(WEIGHT)}), model="m")


@pytest.mark.parametrize(
    ("weight", "narrow"),
    [(WEIGHT[:, :2], 0), (WEIGHT[:63], 0), (WEIGHT, 64), (np.tril(np.ones((64, 64))), 0)],
    ids=["few columns", "under 4096 elements", "as narrow as said", "a mask"],
)
def test_what_is_no_large_weight_stays_float32(weight: Any, narrow: int) -> None:
    rows = len(weight)
    nodes = [
        node("Slice", "x zero rows one", "part") if rows < 64 else node("Identity", "x", "part"),
        node("MatMul", "part w", "y"),
    ]
    weights = {"w": single(weight), "zero": np.array([0]), "rows": np.array([rows]), "one": np.array([1])}
    assert check_precision(graph(nodes, weights), model="m", narrow=narrow) == Products(float16=0, float32=1)


def test_a_float16_product_of_a_narrow_weight_is_told() -> None:
    with pytest.raises(
        BuildError,
        match=r"^MatMul the_p of m is float16 and must stay float32: only large products are float16, and what moves "
        r"their data; let hytrec_export.exporters.mixed_precision leave its module as it is$",
    ):
        check_precision(graph(half_product(), {"w": half(WEIGHT[:, :2])}), model="m", narrow=2)


def test_a_small_weight_may_be_multiplied_in_either() -> None:
    small = WEIGHT[:, :20]
    assert check_precision(graph(half_product(), {"w": half(small)}), model="m", narrow=2).float16 == 1
    assert check_precision(graph([node("MatMul", "x w", "y")], {"w": single(small)}), model="m").float32 == 1


@pytest.mark.parametrize("op_type", ["Softmax", "Exp", "Log", "Sigmoid", "ReduceMean", "Sqrt"])
def test_float16_in_anything_but_a_product_is_told(op_type: str) -> None:
    nodes = [node("Cast", "x", "h", to=F16), node(op_type, "h", "s"), node("Cast", "s", "y", to=F32)]
    with pytest.raises(BuildError, match=rf"^{op_type} the_s of m is float16 and must stay float32"):
        check_precision(graph(nodes, {}), model="m")


def test_a_norm_of_float16_is_told() -> None:
    nodes = [node("Cast", "x", "h", to=F16), node("RMSNormalization", "h scale", "s"), node("Cast", "s", "y", to=F32)]
    with pytest.raises(BuildError, match=r"^RMSNormalization the_s of m is float16 and must stay float32"):
        check_precision(graph(nodes, {"scale": half(np.ones(64))}), model="m")


def attention(logits: int, shares: int) -> Any:
    """softmax(2 q k^T) v, the products of the types given."""
    nodes = [
        node("Cast", "q", "hq", to=logits),
        node("Cast", "k", "hk", to=logits),
        node("Transpose", "hk", "kt"),
        node("MatMul", "hq kt", "l"),
        node("Cast", "l", "wide", to=F32),
        node("Mul", "wide two", "scaled"),
        node("Softmax", "scaled", "s"),
        node("Cast", "s", "hs", to=shares),
        node("Cast", "v", "hv", to=shares),
        node("MatMul", "hs hv", "r"),
        node("Cast", "r", "y", to=F32),
    ]
    return graph(nodes, {"two": np.array(2, np.float32)}, inputs="q k v")


def test_both_products_of_attention_are_float16() -> None:
    assert check_precision(attention(F16, F16), model="m") == Products(float16=2, float32=0)


@pytest.mark.parametrize(("logits", "shares", "name"), [(F32, F16, "the_l"), (F16, F32, "the_r")])
def test_a_float32_product_of_attention_is_told(logits: int, shares: int, name: str) -> None:
    with pytest.raises(BuildError, match=rf"^MatMul {name} of m is float32 .*, being a product of attention; let "):
        check_precision(attention(logits, shares), model="m")


def test_a_float16_product_of_two_computed_values_is_told() -> None:
    """The delta rule's are of that kind."""
    nodes = [
        node("Cast", "x", "h", to=F16),
        node("Transpose", "h", "t"),
        node("MatMul", "h t", "p"),
        node("Cast", "p", "y", to=F32),
    ]
    with pytest.raises(BuildError, match=r"^MatMul the_p of m is float16 and must stay float32"):
        check_precision(graph(nodes, {}), model="m")


def linear_attention(query: str) -> list[Any]:
    inputs = [query, "x", "x", "", "", ""]
    return [
        helper.make_node("LinearAttention", inputs, ["o", "s"], name="fused", domain="com.microsoft"),
        node("Exp", "o", "y"),
    ]


def test_the_fused_delta_rule_is_float32() -> None:
    check_precision(graph(linear_attention("x"), {}), model="m")
    nodes = [node("Cast", "x", "h", to=F16), *linear_attention("h")]
    with pytest.raises(BuildError, match=r"^LinearAttention fused of m is float16 and must stay float32"):
        check_precision(graph(nodes, {}), model="m")


def test_a_type_that_nobody_knows_is_told() -> None:
    nodes = [helper.make_node("Riddle", ["x"], ["r"], name="odd", domain="com.microsoft"), node("Exp", "r", "y")]
    with pytest.raises(
        BuildError,
        match=r"^the type of r at Riddle odd of m is unknown; install the versions that pyproject.toml names$",
    ):
        check_precision(graph(nodes, {}), model="m")
