"""Indices of GatherElements stay int32: PyTorch asks for int64, ONNX takes either, and half the bytes are read."""

from __future__ import annotations

from typing import Any

from hytrec_export.optional import require

__all__ = ["keep_int32_indices"]


def keep_int32_indices(graph: Any) -> int:
    """Leave out casts of int32 to int64 that nothing but indices of GatherElements is made of, in place: how many.

    Args:
        graph: an `onnx.ModelProto` with the types of its inner values.
    """
    onnx = require("onnx", extra="export")
    int32 = {
        value.name for value in graph.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.INT32
    }
    readers: dict[str, list[Any]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.graph.output}
    casts = [
        node
        for node in graph.graph.node
        if node.op_type == "Cast"
        and node.input[0] in int32
        and node.output[0] not in outputs
        and all(_indexes(reader, node.output[0]) for reader in readers.get(node.output[0], []))
    ]
    for cast in casts:
        for reader in readers.get(cast.output[0], []):
            reader.input[1] = cast.input[0]
        graph.graph.node.remove(cast)
    return len(casts)


def _indexes(node: Any, name: str) -> bool:
    return node.op_type == "GatherElements" and list(node.input).index(name) == 1
