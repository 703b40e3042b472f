from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from hytrec_export.errors import BuildError
from hytrec_export.exporters import large_products, tensor_files
from hytrec_export.exporters.tensorrt.log import Log
from hytrec_export.exporters.tensorrt.network import check_tensors, parse
from hytrec_export.exporters.tensorrt.package import TensorRT


@pytest.fixture
def parsed(tensorrt: TensorRT) -> Any:
    kept = []

    def run(graph: Path) -> Any:
        log = Log(tensorrt.module)
        kept.append(tensorrt.module.Builder(log.logger))
        return parse(tensorrt.module, kept[-1], graph, log)

    return run


def test_an_operator_that_tensorrt_does_not_know_is_named(parsed: Any, toy: Any, tensorrt: TensorRT) -> None:
    graph = toy.write(("NoSuchOperator", ["x"], "y"), domain="com.microsoft")
    message = (
        rf"^TensorRT {tensorrt.version} cannot parse toy.onnx: node 0 'NoSuchOperator_of_y' \(NoSuchOperator\): .+; "
        "build for --target onnxruntime, or with the TensorRT that pyproject.toml names$"
    )
    with pytest.raises(BuildError, match=message):
        parsed(graph)


def test_a_file_that_is_no_graph_is_refused(parsed: Any, tmp_path: Path) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"junk")
    with pytest.raises(BuildError, match=r"cannot parse junk.onnx: .*Failed to parse the ONNX model"):
        parsed(path)


def test_the_tables_tensors_are_found(parsed: Any, toy: Any) -> None:
    network = parsed(toy.write(("Relu", ["x"], "y")))
    check_tensors(network, model=toy.model, sizes=toy.sizes)


@pytest.mark.parametrize(
    ("node", "output", "given"),
    [
        ("Cast float16", (TensorProto.FLOAT16, ["B", 64]), r"y float16 \[-1, 64\]"),
        ("MatMul", (TensorProto.FLOAT, ["B", 2]), r"y float32 \[-1, 2\]"),
    ],
)
def test_a_tensor_that_differs_from_the_table_is_named(
    parsed: Any, toy: Any, node: str, output: Any, given: str
) -> None:
    inputs = ["x", "w"] if node == "MatMul" else ["x"]
    network = parsed(toy.write((node, inputs, "y"), constants={"w": np.ones((64, 2), np.float32)}, output=output))
    message = (
        rf"^TensorRT read an output of toy as {given}, the signature table has y float32 \[-1, 64\]; "
        "export the graph again$"
    )
    with pytest.raises(BuildError, match=message):
        check_tensors(network, model=toy.model, sizes=toy.sizes)


def test_a_table_in_a_file_is_read_and_no_input(parsed: Any, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "LARGE_BYTES", 1)
    monkeypatch.setattr(large_products, "UNPACKED_BYTES", 1)
    table = np.ones((64, 64), np.float32)
    path = toy.write(("Transpose", ["w"], "columns"), ("MatMul", ["x", "columns"], "y"), constants={"w": table})
    graph = onnx.load(path)
    tensor_files.attach(graph, tensor_files.TensorFiles(path.parent), {})
    assert large_products.multiply_unpacked(graph) == 1
    path.write_bytes(graph.SerializeToString())
    network = parsed(path)
    check_tensors(network, model=toy.model, sizes=toy.sizes)
    assert network.num_inputs == 1


def test_a_tensor_too_few_is_told(parsed: Any, toy: Any) -> None:
    network = parsed(toy.write(("Relu", ["x"], "y")))
    network.unmark_output(network.get_output(0))
    message = "^TensorRT read 0 outputs of toy, the signature table has 1; export the graph again$"
    with pytest.raises(BuildError, match=message):
        check_tensors(network, model=toy.model, sizes=toy.sizes)
