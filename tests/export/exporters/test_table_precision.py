from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hytrec.signature import GRAPHS, RERANKER
from hytrec_export.errors import BuildError
from hytrec_export.exporters import table_nodes, table_precision
from hytrec_export.exporters.table_precision import TABLES, convert_tables, narrowed
from hytrec_export.exporters.tensor_files import TensorFiles, attach, external_tensors, load_graph
from hytrec_export.loadtest.sampling import anonymous_bytes
from hytrec_export.options import TablePrecision
from hytrec_export.repository.layout import graph_files
from hytrec_export.runtime.runners import OnnxRunner

NARROW = [TablePrecision.FLOAT16, TablePrecision.INT8]
TABLE = "model.item_table.weight"
AXES = {"scores": 2, "found": 3, "copied": 2}


def scoring_graph(table: Any, *, product: str, other_reader: bool = False) -> Any:
    """scores = x @ table.T and found = table[places], x (B, D), places (B, n)."""
    products = {
        "MatMul": [
            helper.make_node("Transpose", [TABLE], ["columns"], perm=[1, 0], name="columns"),
            helper.make_node("MatMul", ["x", "columns"], ["scores"], name="scores"),
        ],
        "Gemm": [helper.make_node("Gemm", ["x", TABLE], ["scores"], name="scores", transB=1)],
    }
    nodes = [*products[product], helper.make_node("Gather", [TABLE, "places"], ["found"], name="found")]
    outputs = ["scores", "found"]
    if other_reader:
        nodes.append(helper.make_node("Identity", [TABLE], ["copied"], name="copied"))
        outputs.append("copied")
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", table.shape[1]]),
            helper.make_tensor_value_info("places", TensorProto.INT64, ["B", "n"]),
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name} {axis}" for axis in range(AXES[name])])
            for name in outputs
        ],
        [onnx.numpy_helper.from_array(table, TABLE)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def converted(graph: Any, precision: TablePrecision, folder: Path) -> Path:
    source = folder / "source"
    source.mkdir()
    attach(graph, TensorFiles(source), {})
    (source / "graph.onnx").write_bytes(graph.SerializeToString())
    return convert_tables({"m": source / "graph.onnx"}, folder / "narrow", precision)["m"]


def anonymous_memory() -> int:
    process: Any = psutil
    return anonymous_bytes(process.Process())


def random_table(rows: int, width: int = 16) -> Any:
    return np.random.default_rng(rows).standard_normal((rows, width), np.float32)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1e-6, 1.0, 1e4]))
def test_int8_is_within_half_a_step_of_every_row(seed: int, rows: int, size: float) -> None:
    table = (np.random.default_rng(seed).standard_normal((rows, 8)) * size).astype(np.float32)
    table[rows // 2] = 0
    narrow = narrowed(table, TablePrecision.INT8, name="table")
    assert narrow.values.dtype == np.int8
    assert narrow.scales is not None
    steps = np.abs(table).max(1, keepdims=True) / 127
    np.testing.assert_allclose(narrow.scales, steps, rtol=1e-6)
    assert (np.abs(narrow.widened(slice(None)) - table) <= steps * 0.501).all()
    assert not narrow.widened(slice(rows // 2, rows // 2 + 1)).any()


def test_float16_is_the_nearest_and_rows_beyond_the_table_are_zeros() -> None:
    table = random_table(9)
    narrow = narrowed(table, TablePrecision.FLOAT16, name="table", rows=12)
    np.testing.assert_array_equal(narrow.widened(slice(9)), table.astype(np.float16).astype(np.float32))
    assert narrow.values.shape == (12, 16)
    assert not narrow.values[9:].any()


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize(("value", "shown"), [(70_000.0, r"7e\+04"), (np.nan, "nan")])
def test_a_number_that_is_too_large_is_told(precision: TablePrecision, value: float, shown: str) -> None:
    table = random_table(9)
    table[7, 3] = value
    with pytest.raises(BuildError, match=rf"^table holds a weight of {shown} and float16 ends at 65504; build without"):
        narrowed(table, precision, name="table")


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("product", ["MatMul", "Gemm"])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 30])
def test_rows_and_products_are_those_of_the_widened_table(
    precision: TablePrecision, product: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (table_nodes, table_precision):
        monkeypatch.setattr(module, "BLOCK_ROWS", 8)
    table = random_table(rows)
    path = converted(scoring_graph(table, product=product), precision, tmp_path)
    kinds = {tensor.data_type for tensor in load_graph(path).graph.initializer if tensor.name.startswith(TABLE)}
    assert TensorProto.FLOAT not in kinds or precision is TablePrecision.INT8  # scales
    assert any(node.op_type == "Scan" for node in load_graph(path).graph.node) == (rows > 8)
    wide = narrowed(table, precision, name="table").widened(slice(None))
    x = np.random.default_rng(1).standard_normal((3, 16), np.float32)
    places = np.random.default_rng(2).integers(0, rows, (3, 5))
    with OnnxRunner(path, threads=1) as runner:
        results = runner.infer({"x": x, "places": places})
    np.testing.assert_array_equal(results["found"], wide[places])
    np.testing.assert_allclose(results["scores"], x @ wide.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "bytes_a_number"), [(TablePrecision.FLOAT16, 2), (TablePrecision.INT8, 1)])
def test_a_large_table_is_never_widened_whole(precision: TablePrecision, bytes_a_number: int, tmp_path: Path) -> None:
    table = random_table(300_000, 64)  # 77 MB
    path = converted(scoring_graph(table, product="Gemm"), precision, tmp_path)
    files = [file for file in path.parent.glob("*.tensor") if file.stat().st_size > 2_000_000]
    assert len(files) == 1  # for rows and for blocks
    assert files[0].stat().st_size <= bytes_a_number * (300_000 + table_nodes.BLOCK_ROWS) * 64
    x = table[:2]
    before = anonymous_memory()
    with OnnxRunner(path, threads=1) as runner:
        scores = runner.infer({"x": x, "places": np.zeros((2, 1), np.int64)})["scores"]
        grown = anonymous_memory() - before
    assert grown < table.nbytes / 2
    assert scores.shape == (2, 300_000)
    assert np.abs(scores - x @ table.T).max() < 0.5  # of scores up to 60


def test_a_table_that_is_read_otherwise_is_told(tmp_path: Path) -> None:
    graph = scoring_graph(random_table(9), product="Gemm", other_reader=True)
    with pytest.raises(
        BuildError,
        match=r"^m reads model.item_table.weight by other nodes than Gather and a product, so that it cannot be stored "
        r"in int8; bring hytrec_export.exporters.table_nodes in line with the model$",
    ):
        converted(graph, TablePrecision.INT8, tmp_path)


@pytest.mark.parametrize("precision", NARROW)
def test_the_graphs_of_a_build_hold_no_float32_table(precision: TablePrecision, built: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for model in GRAPHS:
        (source / f"{model.name}.onnx").write_bytes(graph_files(built)[model.name].read_bytes())
    graphs = convert_tables(
        {model.name: source / f"{model.name}.onnx" for model in GRAPHS}, tmp_path / "narrow", precision
    )
    for model in GRAPHS:
        graph = load_graph(graphs[model.name])
        assert not TABLES & {tensor.name for tensor in graph.graph.initializer}
        assert not list(external_tensors(graph))
        assert tuple(value.name for value in graph.graph.input) == model.input_names()
    kinds = {tensor.name: tensor.data_type for tensor in load_graph(graphs[RERANKER.name]).graph.initializer}
    assert kinds[f"{TABLE}_narrow"] == (TensorProto.INT8 if precision is TablePrecision.INT8 else TensorProto.FLOAT16)
    assert kinds["model.neighbors.weights_narrow"] == TensorProto.FLOAT16
