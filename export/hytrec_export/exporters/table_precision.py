"""Tables in fewer bits: rows are widened when they are read, so that no float32 copy of a large table is ever made."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_export.errors import BuildError
from hytrec_export.exporters.mixed_precision import LARGEST_HALF, too_large
from hytrec_export.exporters.table_nodes import BLOCK_ROWS, NarrowTable, readers_of
from hytrec_export.exporters.tensor_files import (
    LARGE_BYTES,
    TensorFiles,
    check_without_files,
    file_of,
    is_external,
    load_graph,
    mapped,
    set_file,
    take_over,
)
from hytrec_export.optional import require
from hytrec_export.options import TablePrecision

LARGEST_INT8 = 127
_ITEMS, _PROXIMITIES = "model.item_table.weight", "model.neighbors.weights"
TABLES = frozenset({_ITEMS, _PROXIMITIES})
"""Initializers that are tables: item rows, and the proximities of every item's neighbors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Narrowed:
    """A table in fewer bits.

    Args:
        values: (rows, D) float16 or int8.
        scales: (rows, 1) float32, of int8; row = values * scale.
    """

    values: NDArray[Any]
    scales: NDArray[np.float32] | None

    def widened(self, rows: slice) -> NDArray[np.float32]:
        """Some rows in float32."""
        wide = self.values[rows].astype(np.float32)
        return wide if self.scales is None else wide * self.scales[rows]


def narrowed(table: NDArray[np.float32], precision: TablePrecision, *, name: str, rows: int | None = None) -> Narrowed:
    """A float32 table (I, D) in float16, or in int8 with a scale for every row: largest magnitude / 127.

    Args:
        name: for messages.
        rows: of the result; those beyond the table's are zeros.

    Raises:
        BuildError: a number is over float16's largest, or not finite.
    """
    size = (rows or len(table), table.shape[1])
    half = precision is TablePrecision.FLOAT16
    values = np.zeros(size, np.float16 if half else np.int8)
    scales = None if half else np.zeros((size[0], 1), np.float32)
    for start in range(0, len(table), BLOCK_ROWS):
        block = np.asarray(table[start : start + BLOCK_ROWS])
        place = slice(start, start + len(block))
        magnitudes = np.abs(block).max(1, keepdims=True, initial=0)
        if not (magnitudes <= LARGEST_HALF).all():
            raise BuildError(too_large(name, float(magnitudes.max())))
        if scales is None:
            values[place] = block
        else:
            scales[place] = magnitudes / LARGEST_INT8
            values[place] = np.rint(block / np.maximum(scales[place], np.finfo(np.float32).tiny))
    return Narrowed(values=values, scales=scales)


def convert_tables(graphs: Mapping[str, Path], folder: Path, precision: TablePrecision) -> dict[str, Path]:
    """Write graphs again with their tables in fewer bits: the new files in `folder` by model name.

    Proximities become float16 in either precision: they are few numbers of one sign, small and large in one row.

    Args:
        graphs: .onnx files of one folder by model name, their tables in float32.
        folder: is made.

    Raises:
        BuildError: a number is over float16's largest.
    """
    folder.mkdir()
    paths = {}
    store = TableStore(files=TensorFiles(folder), source=next(iter(graphs.values())).parent)
    for model, source in graphs.items():
        graph = load_graph(source)
        store.store(graph, _ITEMS, precision, model=model)
        store.store(graph, _PROXIMITIES, TablePrecision.FLOAT16, model=model)
        take_over(graph, source.parent, folder)
        check_without_files(graph)
        paths[model] = folder / source.name
        paths[model].write_bytes(graph.SerializeToString())
    return paths


class TableStore:
    """Stores tables of graphs that stand in one folder in fewer bits, each once for all of them.

    Args:
        files: of the folder that the graphs are written to.
        source: the folder that they come from.
    """

    def __init__(self, *, files: TensorFiles, source: Path) -> None:
        self._files = files
        self._source = source
        self._narrowed: dict[str, Narrowed] = {}

    def store(self, graph: Any, name: str, precision: TablePrecision, *, model: str) -> bool:
        """Store a float32 table of a graph (an `onnx.ModelProto`) in fewer bits, in place.

        Args:
            name: of its initializer, (rows, D).
            model: the graph's name, for messages.

        Returns:
            Whether there is such a table.

        Raises:
            BuildError: a number is over float16's largest, or the graph does more with the table than gather rows and
                multiply by all of it.
        """
        tensor = next((tensor for tensor in graph.graph.initializer if tensor.name == name), None)
        if tensor is None:
            return False
        readers = readers_of(graph, name)
        if readers is None:
            raise BuildError(
                f"{model} reads {name} by other nodes than Gather and a product, so that it cannot be stored in "
                f"{precision.value}; bring hytrec_export.exporters.table_nodes in line with the model"
            )
        rows, width = tensor.dims
        blocks = math.ceil(rows / BLOCK_ROWS) if rows > BLOCK_ROWS else 0
        narrow = self._narrow(tensor, precision, f"{name} of {model}", blocks * BLOCK_ROWS or rows)
        table = NarrowTable(name=name, rows=rows, width=width, blocks=blocks, scaled=narrow.scales is not None)
        made = [self._tensor(table.values, narrow.values, (rows, width))]
        if narrow.scales is not None:
            made.append(self._tensor(table.scales, narrow.scales, (rows, 1)))
        if blocks and readers.products:
            made.append(self._tensor(table.in_blocks, narrow.values, (blocks, BLOCK_ROWS, width)))
        nodes: list[Any] = []
        for node in graph.graph.node:
            if node.output[0] in readers.gathers:
                nodes += table.gather(node)
            elif node.output[0] in readers.products:
                nodes += table.product(node, narrow.values.dtype)
            elif node.output[0] not in readers.transposes:
                nodes.append(node)
        _replace(graph.graph.node, nodes)
        _replace(graph.graph.initializer, [*(other for other in graph.graph.initializer if other.name != name), *made])
        _replace(graph.graph.input, [value for value in graph.graph.input if value.name != name])
        return True

    def _narrow(self, tensor: Any, precision: TablePrecision, name: str, rows: int) -> Narrowed:
        values = mapped(tensor, self._source)
        key = file_of(tensor) if is_external(tensor) else hashlib.sha256(values.tobytes()).hexdigest()
        if key not in self._narrowed:
            self._narrowed[key] = narrowed(values, precision, name=name, rows=rows)
        return self._narrowed[key]

    def _tensor(self, name: str, values: NDArray[Any], shape: tuple[int, ...]) -> Any:
        onnx = require("onnx", extra="export")
        if values.nbytes < LARGE_BYTES:
            return onnx.numpy_helper.from_array(values.reshape(-1)[: math.prod(shape)].reshape(shape), name)
        tensor = onnx.TensorProto(name=name, data_type=onnx.helper.np_dtype_to_tensor_dtype(values.dtype), dims=shape)
        set_file(tensor, self._files.write(name.removeprefix("model."), values))
        return tensor


def _replace(field: Any, values: list[Any]) -> None:
    """Make a repeated field of a protobuf message hold `values`, some of which it may hold already."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)
