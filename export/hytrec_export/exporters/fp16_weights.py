"""Float16 weights: matrices and tables stored in float16, every product float32; --fp16 on a CPU.

A Cast behind each of them makes float32 of it again, which onnxruntime does once, when it loads the graph: half the
file at the speed of float32. Large tables are widened row by row instead (`exporters.table_precision`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_export.errors import BuildError
from hytrec_export.exporters.mixed_precision import LARGEST_HALF, too_large
from hytrec_export.exporters.table_precision import TableStore
from hytrec_export.exporters.tensor_files import (
    TensorFiles,
    check_without_files,
    external_tensors,
    is_external,
    load_graph,
    take_over,
)
from hytrec_export.optional import require
from hytrec_export.options import Precision, TablePrecision

_READERS = frozenset({"MatMul", "Gemm", "Gather", "Transpose"})
"""Operators whose matrices are weights or tables."""
_SUFFIX = "_float16"


def convert_to_fp16_weights(graphs: Mapping[str, Path], folder: Path, *, narrow: int) -> dict[str, Path]:
    """Write float32 graphs again with their weights in float16: the new files in `folder` by model name.

    Args:
        graphs: .onnx files by model name.
        folder: is made.
        narrow: a matrix of no more rows or columns than this stays as it is.

    Raises:
        BuildError: a weight is over float16's largest number.
    """
    onnx = require("onnx", extra="export")
    folder.mkdir()
    paths, files = {}, TensorFiles(folder)
    for model, source in graphs.items():
        graph, tables = load_graph(source), TableStore(TablePrecision.FLOAT16, files=files, source=source.parent)
        store_weights_as_fp16(graph, model=model, narrow=narrow)
        for table in list(external_tensors(graph)):
            if table.data_type == onnx.TensorProto.FLOAT:
                tables.store(graph, table, model=model)
        take_over(graph, source.parent, folder)
        metadata = {entry.key: entry.value for entry in graph.metadata_props}
        onnx.helper.set_model_props(graph, metadata | {"precision": Precision.HALF_WEIGHTS.value})
        check_without_files(graph)
        paths[model] = folder / source.name
        paths[model].write_bytes(graph.SerializeToString())
    return paths


def store_weights_as_fp16(graph: Any, *, model: str, narrow: int = 0) -> int:
    """Store the weights of a graph (an `onnx.ModelProto`) in float16, in place, but for those in files: how many.

    Args:
        model: its name, for messages.
        narrow: a matrix of no more rows or columns than this stays as it is.

    Raises:
        BuildError: a weight is over float16's largest number.
    """
    onnx = require("onnx", extra="export")
    readers: dict[str, set[str]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    casts = []
    for tensor in graph.graph.initializer:
        name = tensor.name
        if not _is_weight(onnx, tensor, readers.get(name, set()), narrow):
            continue
        values = onnx.numpy_helper.to_array(tensor)
        _check(values, f"{name} of {model}")
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name + _SUFFIX))
        cast = onnx.helper.make_node("Cast", [name + _SUFFIX], [name], name=f"{name}_cast", to=onnx.TensorProto.FLOAT)
        casts.append(cast)
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return len(casts)


def _is_weight(onnx: Any, tensor: Any, readers: set[str], narrow: int) -> bool:
    return (
        tensor.data_type == onnx.TensorProto.FLOAT
        and not is_external(tensor)
        and len(tensor.dims) == 2
        and min(tensor.dims) > narrow
        and bool(readers)
        and readers <= _READERS
    )


def _check(values: NDArray[np.float32], name: str) -> None:
    largest = float(np.abs(values).max(initial=0))
    if not largest <= LARGEST_HALF:
        raise BuildError(too_large(name, largest))
