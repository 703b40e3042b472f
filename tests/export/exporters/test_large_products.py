from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from hytrec_export.exporters import large_products
from hytrec_export.exporters.large_products import multiply_unpacked
from hytrec_export.exporters.tensor_files import TensorFiles, attach
from hytrec_export.loadtest.sampling import anonymous_bytes
from hytrec_export.runtime.runners import OnnxRunner

WIDTH = 64


def scoring_graph(rows: int, *, other_reader: bool = False, axes: tuple[str, ...] = ("B",)) -> Any:
    """scores = x @ table.T, found = table[places]."""
    nodes = [
        helper.make_node("Transpose", ["table"], ["columns"], perm=[1, 0], name="columns"),
        helper.make_node("Identity", ["x"], ["same"], name="same"),
        helper.make_node("MatMul", ["same", "columns"], ["scores"], name="scores"),
        helper.make_node("Gather", ["table", "places"], ["found"], name="found"),
    ]
    outputs = ["scores", "found"]
    if other_reader:
        nodes.append(helper.make_node("Identity", ["columns"], ["copied"], name="copied"))
        outputs.append("copied")
    x: list[str | int | None] = [*axes, WIDTH]
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, x),
            helper.make_tensor_value_info("places", TensorProto.INT64, ["n"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.zeros((rows, WIDTH), np.float32), "table")],
        value_info=[helper.make_tensor_value_info("same", TensorProto.FLOAT, x)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def written(graph: Any, table: Any, folder: Path) -> Path:
    graph.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(table, "table"))
    attach(graph, TensorFiles(folder), {})
    multiply_unpacked(graph)
    path = folder / "graph.onnx"
    path.write_bytes(graph.SerializeToString())
    return path


def anonymous_memory() -> int:
    process: Any = psutil
    return anonymous_bytes(process.Process())


def random_table(rows: int) -> Any:
    return np.random.default_rng(0).standard_normal((rows, WIDTH), np.float32)


def test_a_large_table_is_neither_copied_nor_packed(tmp_path: Path) -> None:
    table = random_table(1 << 18)  # 64 MiB
    path = written(scoring_graph(len(table)), table, tmp_path)
    x = np.random.default_rng(1).standard_normal((3, WIDTH), np.float32)
    before = anonymous_memory()
    with OnnxRunner(path, threads=1) as runner:
        results = runner.infer({"x": x, "places": np.array([5, 9])})
        grown = anonymous_memory() - before
    assert grown < table.nbytes / 2
    np.testing.assert_allclose(results["scores"], x @ table.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(results["found"], table[[5, 9]])


def test_the_product_reads_the_table_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_products, "UNPACKED_BYTES", 1 << 20)
    path = written(scoring_graph(1 << 13), random_table(1 << 13), tmp_path)
    graph = onnx.load(path, load_external_data=False).graph
    (product,) = (node for node in graph.node if node.op_type == "Gemm")
    assert list(product.input) == ["same", "table"]
    assert not any(node.op_type == "Transpose" for node in graph.node)
    assert [value.name for value in graph.input] == ["x", "places", "table"]


def test_an_integer_product_reads_its_table_where_it_is(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-127, 127, (WIDTH, 1 << 19), np.int8)  # 32 MiB
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "codes"], ["scores"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["B", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.INT32, ["B", "rows"])],
        [onnx.numpy_helper.from_array(codes, "codes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    attach(model, TensorFiles(tmp_path), {})
    assert multiply_unpacked(model) == 1
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    x = np.arange(WIDTH, dtype=np.uint8)[None]
    before = anonymous_memory()
    with OnnxRunner(tmp_path / "graph.onnx", threads=1) as runner:
        scores = runner.infer({"x": x})["scores"]
        grown = anonymous_memory() - before
    assert grown < codes.nbytes / 2
    np.testing.assert_array_equal(scores, x.astype(np.int32) @ codes.astype(np.int32))


@pytest.mark.parametrize(
    ("rows", "options"),
    [(1 << 10, {}), (1 << 13, {}), (1 << 18, {"axes": ("B", "T")})],
    ids=["a table in the graph", "a small file", "a product of three axes"],
)
def test_other_products_stay_as_they_are(rows: int, options: dict[str, Any], tmp_path: Path) -> None:
    graph = scoring_graph(rows, **options)
    attach(graph, TensorFiles(tmp_path), {})
    before = graph.SerializeToString()
    assert multiply_unpacked(graph) == 0
    assert graph.SerializeToString() == before


def test_who_else_reads_the_transposed_table_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_products, "UNPACKED_BYTES", 1 << 20)
    table = random_table(1 << 13)
    path = written(scoring_graph(len(table), other_reader=True), table, tmp_path)
    with OnnxRunner(path, threads=1) as runner:
        results = runner.infer({"x": table[:2], "places": np.array([0])})
    np.testing.assert_array_equal(results["copied"], table.T)
    np.testing.assert_allclose(results["scores"], table[:2] @ table.T, rtol=1e-4, atol=1e-4)
