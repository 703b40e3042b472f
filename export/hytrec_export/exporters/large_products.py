"""Products with a large table read it where it is mapped: onnxruntime would copy it, packed, into each process.

A weight that is a graph's input too, with itself as the default, is no constant: onnxruntime neither packs it nor
folds what is made of it. It is as fast (seen, 300,000 rows of 128: 12 ms for one user, 18 packed; 24 for four, as
packed).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hytrec_export.exporters.tensor_files import external_tensors, is_external
from hytrec_export.optional import require

UNPACKED_BYTES = 1 << 24
"""Smaller tables are packed: they are in the processor's caches, and their copies cost little."""


def unfold_tables(graph: Any) -> int:
    """Make a table's transposed copy, which the exporter has folded from a small one, a node again: how many.

    Args:
        graph: an `onnx.ModelProto`; changed in place.
    """
    onnx = require("onnx", extra="export")
    to_array = onnx.numpy_helper.to_array
    gathered = {node.input[0] for node in graph.graph.node if node.op_type == "Gather"}
    inside = [tensor for tensor in graph.graph.initializer if len(tensor.dims) == 2 and not is_external(tensor)]
    tables = [tensor for tensor in inside if tensor.name in gathered]
    nodes = []
    for copy in [tensor for tensor in inside if tensor.name not in gathered]:
        for table in tables:
            same = list(copy.dims) == list(reversed(table.dims)) and copy.data_type == table.data_type
            if same and np.array_equal(to_array(copy), to_array(table).T):
                name = copy.name
                graph.graph.initializer.remove(copy)
                nodes.append(onnx.helper.make_node("Transpose", [table.name], [name], name=name, perm=[1, 0]))
                break
    for node in reversed(nodes):
        graph.graph.node.insert(0, node)
    return len(nodes)


def multiply_unpacked(graph: Any, *, min_bytes: int | None = None) -> int:
    """Keep products with the large tables of a graph (an `onnx.ModelProto`) from copying them, in place: how many.

    x @ table.T becomes Gemm(x, table), which needs no transposed table; x must have two axes. An integer product with a
    table stays as it is.

    Args:
        min_bytes: of a large table, `UNPACKED_BYTES` by default.
    """
    onnx = require("onnx", extra="export")
    least = UNPACKED_BYTES if min_bytes is None else min_bytes
    tables = {tensor.name: tensor for tensor in external_tensors(graph) if _bytes(tensor) >= least}
    values = (*graph.graph.value_info, *graph.graph.input)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    transposed = {
        node.output[0]: node.input[0]
        for node in graph.graph.node
        if node.op_type == "Transpose" and node.input[0] in tables
    }
    products = [
        node
        for node in graph.graph.node
        if node.op_type == "MatMul" and node.input[1] in transposed and ranks.get(node.input[0]) == 2
    ]
    for node in products:
        table = transposed[node.input[1]]
        gemm = onnx.helper.make_node("Gemm", [node.input[0], table], node.output, name=node.name, transB=1)
        node.CopyFrom(gemm)
    read = {name for node in graph.graph.node for name in node.input}
    unread = [node for node in graph.graph.node if node.output[0] in transposed and node.output[0] not in read]
    for node in unread:
        graph.graph.node.remove(node)
    integer = [node for node in graph.graph.node if node.op_type == "MatMulInteger" and node.input[1] in tables]
    for name in sorted({node.input[1] for node in (*products, *integer)}):
        tensor = tables[name]
        graph.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return len(products) + len(integer)


def _bytes(tensor: Any) -> int:
    return next(int(entry.value) for entry in tensor.external_data if entry.key == "length")
