from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hytrec.signature import GRAPHS, RETRIEVER
from hytrec_export.errors import BuildError
from hytrec_export.exporters.fp16_weights import convert_to_fp16_weights, store_weights_as_fp16
from hytrec_export.exporters.precision_check import check_precision

RANDOM = np.random.default_rng(0)


def small_graph(table: Any, weight: Any, gate: Any, mask: Any) -> Any:
    """y = table[rows] @ weight + mask, z = table[rows] @ gate."""
    nodes = [
        helper.make_node("Gather", ["table", "rows"], ["h"]),
        helper.make_node("MatMul", ["h", "weight"], ["p"]),
        helper.make_node("Add", ["p", "mask"], ["y"]),
        helper.make_node("MatMul", ["h", "gate"], ["z"]),
    ]
    weights = {"table": table, "weight": weight, "gate": gate, "mask": mask}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["B"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", f"{name} columns"]) for name in ("y", "z")],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def made() -> tuple[Any, ...]:
    return tuple(RANDOM.standard_normal(shape) for shape in ((50, 16), (16, 12), (16, 2), (1, 12)))


def types(graph: Any) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in graph.graph.initializer}


def run(graph: Any) -> Any:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"rows": np.arange(50)})


def test_matrices_and_tables_are_stored_in_float16_and_the_rest_is_not() -> None:
    graph = small_graph(*made())
    assert store_weights_as_fp16(graph, model="m", narrow=2) == 2
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    assert types(graph) == {"table_float16": half, "weight_float16": half, "gate": single, "mask": single}
    onnx.checker.check_model(graph)


def test_products_are_those_of_the_rounded_weights_in_float32() -> None:
    table, weight, gate, mask = made()
    graph = small_graph(table, weight, gate, mask)
    store_weights_as_fp16(graph, model="m", narrow=2)
    rounded = [values.astype(np.float16) for values in (table, weight)]
    for got, want in zip(run(graph), run(small_graph(rounded[0], rounded[1], gate, mask)), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_runtime_casts_once_when_it_loads(tmp_path: Path) -> None:
    graph = small_graph(*made())
    store_weights_as_fp16(graph, model="m")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert "Cast" not in {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


@pytest.mark.parametrize(("value", "shown"), [(70_000.0, r"7e\+04"), (np.inf, "inf"), (np.nan, "nan")])
def test_a_weight_that_float16_cannot_hold_is_told(value: float, shown: str) -> None:
    table, weight, gate, mask = made()
    weight[3, 4] = value
    with pytest.raises(
        BuildError,
        match=rf"^weight of m holds a weight of {shown} and float16 ends at 65504; build without --fp16, or train "
        r"again with a larger --weight-decay$",
    ):
        store_weights_as_fp16(small_graph(table, weight, gate, mask), model="m")


def test_the_largest_float16_is_no_trouble() -> None:
    table, weight, gate, mask = made()
    weight[3, 4] = -65_504.0
    assert store_weights_as_fp16(small_graph(table, weight, gate, mask), model="m") == 3


def test_graphs_are_converted_file_by_file(built: Path, tmp_path: Path) -> None:
    source = built / RETRIEVER.name / "1" / "model.onnx"
    before = source.read_bytes()
    converted = convert_to_fp16_weights({RETRIEVER.name: source}, tmp_path / "half", narrow=2)
    graph, original = onnx.load(converted[RETRIEVER.name]), onnx.load(source)
    assert any(tensor.name.endswith("_float16") for tensor in graph.graph.initializer)
    metadata, old = ({entry.key: entry.value for entry in each.metadata_props} for each in (graph, original))
    assert metadata == old | {"precision": "float16-weights"}
    assert list(graph.graph.input) == list(original.graph.input)
    assert list(graph.graph.output) == list(original.graph.output)
    assert source.read_bytes() == before
    with pytest.raises(BuildError, match="must be float16"):
        check_precision(graph, model="m")


def test_real_graphs_keep_their_tensors_and_their_float32_parts(built: Path) -> None:
    for model in GRAPHS:
        graph = onnx.load(built / model.name / "1" / "model.onnx")
        before = len(graph.SerializeToString())
        assert store_weights_as_fp16(graph, model=model.name, narrow=2) > 5
        assert len(graph.SerializeToString()) < before
        onnx.checker.check_model(graph)
        kept = [tensor for tensor in graph.graph.initializer if tensor.data_type == TensorProto.FLOAT]
        assert all(len(tensor.dims) != 2 or min(tensor.dims) <= 2 or "slice" in tensor.name for tensor in kept)
        assert [value.name for value in graph.graph.output] == list(model.output_names())
