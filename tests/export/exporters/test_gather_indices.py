from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from hytrec_export.exporters.gather_indices import keep_int32_indices

GATHER = "l = Cast <to = 7> (flat)  y = GatherElements <axis = 1> (x, l)"


def model(nodes: str, outputs: str = "float[B, M] y") -> onnx.ModelProto:
    text = (
        '<ir_version: 10, opset_import: ["" : 20]> '
        f"g (float[B, N] x, int32[B, K, J] i, int64[2] shape) => ({outputs}) "
        f"<int32[B, M] flat, int64[B, M] l> {{ flat = Reshape (i, shape) {nodes} }}"
    )
    return parser.parse_model(text)


def test_indices_are_read_as_they_are_stored() -> None:
    graph = model(GATHER)
    feed = {
        "x": np.random.default_rng(0).random((2, 9), np.float32),
        "i": np.array([[[8, 0], [3, 3]], [[1, 2], [7, 5]]], np.int32),
        "shape": np.array([2, -1]),
    }
    want = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, feed)[0]
    assert keep_int32_indices(graph) == 1
    assert [node.op_type for node in graph.graph.node] == ["Reshape", "GatherElements"]
    onnx.checker.check_model(graph, full_check=True)
    assert np.array_equal(onnxruntime.InferenceSession(graph.SerializeToString()).run(None, feed)[0], want)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (GATHER, "float[B, M] y, int64[B, M] l"),
        (GATHER + " z = Add (l, l)", "float[B, M] y, int64[B, M] z"),
        ("l = Cast <to = 1> (flat)  y = GatherElements <axis = 1> (l, flat)", "float[B, M] y"),
    ],
    ids=["an output", "read by others", "read as data"],
)
def test_other_casts_stay(nodes: str, outputs: str) -> None:
    graph = model(nodes, outputs)
    before = graph.SerializeToString()
    assert keep_int32_indices(graph) == 0
    assert graph.SerializeToString() == before
