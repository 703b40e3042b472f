"""Float16 weights: matrices and tables stored in float16, every product float32; --fp16 on a CPU.

A Cast behind each of them makes float32 of it again, which onnxruntime does once, when it loads the graph: half the
file at the speed of float32. A build leaves the tables to `exporters.table_precision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_export.errors import BuildError
from hytrec_export.exporters.mixed_precision import LARGEST_HALF, narrowest, too_large
from hytrec_export.exporters.tensor_files import (
    TensorFiles,
    check_without_files,
    is_external,
    load_graph,
    mapped,
    set_file,
    take_over,
)
from hytrec_export.optional import require
from hytrec_export.options import Precision

_READERS = frozenset({"MatMul", "Gemm", "Gather", "Reshape", "Slice", "Transpose"})
"""Operators whose matrices are weights or tables."""
_SUFFIX = "_float16"


def convert_to_fp16_weights(
    graphs: Mapping[str, Path], folder: Path, *, narrow: int, keep: frozenset[str] = frozenset()
) -> dict[str, Path]:
    """Write float32 graphs again with their weights in float16: the new files in `folder` by model name.

    Args:
        graphs: .onnx files by model name.
        folder: is made.
        narrow: a matrix of no more rows or columns than this stays as it is.
        keep: weights that stay too.

    Raises:
        BuildError: a weight is over float16's largest number.
    """
    onnx = require("onnx", extra="export")
    folder.mkdir()
    paths, files = {}, TensorFiles(folder)
    for model, source in graphs.items():
        graph = load_graph(source)
        store_weights_as_fp16(graph, model=model, narrow=narrow, keep=keep, source=source.parent, files=files)
        take_over(graph, source.parent, folder)
        metadata = {entry.key: entry.value for entry in graph.metadata_props}
        onnx.helper.set_model_props(graph, metadata | {"precision": Precision.HALF_WEIGHTS.value})
        check_without_files(graph)
        paths[model] = folder / source.name
        paths[model].write_bytes(graph.SerializeToString())
    return paths


def store_weights_as_fp16(
    graph: Any,
    *,
    model: str,
    narrow: int = 0,
    keep: frozenset[str] = frozenset(),
    source: Path = Path(),
    files: TensorFiles | None = None,
) -> int:
    """Store the weights of a graph (an `onnx.ModelProto`) in float16, in place: how many there are.

    Args:
        model: its name, for messages.
        narrow: a matrix of no more rows or columns than this stays as it is.
        keep: weights that stay too.
        source: folder of the graph's tensor files.
        files: of the folder that the graph is written to, where it has tensor files.

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
        if name in keep or not _is_weight(onnx, tensor, readers.get(name, set()), narrow):
            continue
        values = mapped(tensor, source)
        _check(values, f"{name} of {model}")
        half = values.astype(np.float16)
        if files and is_external(tensor):
            tensor.name, tensor.data_type = name + _SUFFIX, onnx.TensorProto.FLOAT16
            set_file(tensor, files.write(tensor.name.removeprefix("model."), half))
        else:
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, name + _SUFFIX))
        cast = onnx.helper.make_node("Cast", [name + _SUFFIX], [name], name=f"{name}_cast", to=onnx.TensorProto.FLOAT)
        casts.append(cast)
    changed = {cast.output[0] for cast in casts}
    inputs = [value for value in graph.graph.input if value.name not in changed]
    del graph.graph.input[:]
    graph.graph.input.extend(inputs)
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return len(casts)


def _is_weight(onnx: Any, tensor: Any, readers: set[str], narrow: int) -> bool:
    return (
        tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) in {2, 3}
        and narrowest(tensor.dims) > narrow
        and bool(readers)
        and readers <= _READERS
    )


def _check(values: NDArray[np.float32], name: str) -> None:
    largest = float(np.abs(values).max(initial=0))
    if not largest <= LARGEST_HALF:
        raise BuildError(too_large(name, largest))
