"""Tables in fewer bits: rows are widened when they are read, so that no float32 copy of a table is ever made.

A gathered row is cast to float32 behind the Gather. A product with the whole table goes through it in blocks, one of
which is float32 at a time; a row's scale (int8) multiplies what comes out, not the row.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_export.errors import BuildError
from hytrec_export.exporters.mixed_precision import LARGEST_HALF, too_large
from hytrec_export.exporters.tensor_files import LARGE_BYTES, TensorFiles, file_of, is_external, mapped, set_file
from hytrec_export.optional import require
from hytrec_export.options import TablePrecision

BLOCK_ROWS = 8_192
"""Rows of a block; 4 MB in float32 at width 128. A table of no more is widened once, when the graph is loaded."""
LARGEST_INT8 = 127


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


class TableStore:
    """Stores the tables of graphs that stand in one folder in fewer bits, each once for all of them.

    Args:
        files: of the folder that the graphs are written to.
        source: the folder that they come from.
    """

    def __init__(self, precision: TablePrecision, *, files: TensorFiles, source: Path) -> None:
        self._precision = precision
        self._files = files
        self._source = source
        self._narrowed: dict[str, Narrowed] = {}

    def store(self, graph: Any, tensor: Any, *, model: str) -> bool:
        """Store a table of a graph (an `onnx.ModelProto`) in fewer bits, in place.

        Args:
            tensor: its float32 initializer, (rows, D).
            model: the graph's name, for messages.

        Returns:
            Whether it was done: not where something else than Gather and a product with the whole table reads it.

        Raises:
            BuildError: a number is over float16's largest.
        """
        readers = _readers(graph, tensor.name)
        if readers is None:
            return False
        rows, width = tensor.dims
        blocks = math.ceil(rows / BLOCK_ROWS) if rows > BLOCK_ROWS else 0
        narrow = self._narrow(tensor, f"{tensor.name} of {model}", blocks * BLOCK_ROWS or rows)
        table = _Table(name=tensor.name, rows=rows, width=width, blocks=blocks, scaled=narrow.scales is not None)
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
        _replace(graph.graph.initializer, [*(one for one in graph.graph.initializer if one.name != table.name), *made])
        _replace(graph.graph.input, [value for value in graph.graph.input if value.name != table.name])
        return True

    def _narrow(self, tensor: Any, name: str, rows: int) -> Narrowed:
        values = mapped(tensor, self._source)
        key = file_of(tensor) if is_external(tensor) else hashlib.sha256(values.tobytes()).hexdigest()
        if key not in self._narrowed:
            self._narrowed[key] = narrowed(values, self._precision, name=name, rows=rows)
        return self._narrowed[key]

    def _tensor(self, name: str, values: NDArray[Any], shape: tuple[int, ...]) -> Any:
        onnx = require("onnx", extra="export")
        if values.nbytes < LARGE_BYTES:
            return onnx.numpy_helper.from_array(values.reshape(-1)[: math.prod(shape)].reshape(shape), name)
        tensor = onnx.TensorProto(name=name, data_type=onnx.helper.np_dtype_to_tensor_dtype(values.dtype), dims=shape)
        set_file(tensor, self._files.write(name.removeprefix("model."), values))
        return tensor


@dataclass(frozen=True, kw_only=True)
class _Readers:
    """Nodes that read a table, by their first outputs."""

    gathers: frozenset[str]
    transposes: frozenset[str]
    products: frozenset[str]


def _readers(graph: Any, table: str) -> _Readers | None:
    """None where something else reads the table, or nothing does."""
    nodes = [node for node in graph.graph.node if table in node.input]
    transposes = frozenset(node.output[0] for node in nodes if node.op_type == "Transpose")
    products = [node for node in graph.graph.node if transposes.intersection(node.input)]
    gathers = frozenset(node.output[0] for node in nodes if node.op_type == "Gather" and node.input[0] == table)
    direct = [node for node in nodes if node.output[0] not in transposes | gathers]
    if not nodes or not all(_is_product(node, transposes) for node in products):
        return None
    if not all(node.op_type == "Gemm" and list(node.input[1:]) == [table] for node in direct):
        return None
    return _Readers(
        gathers=gathers,
        transposes=transposes,
        products=frozenset(node.output[0] for node in (*products, *direct)),
    )


def _is_product(node: Any, transposes: frozenset[str]) -> bool:
    return node.op_type == "MatMul" and node.input[1] in transposes and node.input[0] not in transposes


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Names of a table's parts in a graph, and the nodes that take the place of its readers.

    Args:
        blocks: that products go through; 0 where the table is widened whole.
        scaled: whether every row has a scale.
    """

    name: str
    rows: int
    width: int
    blocks: int
    scaled: bool

    @property
    def values(self) -> str:
        return f"{self.name}_narrow"

    @property
    def scales(self) -> str:
        return f"{self.name}_scales"

    @property
    def in_blocks(self) -> str:
        return f"{self.name}_blocks"

    def gather(self, node: Any) -> list[Any]:
        """Gather(table, rows) in float32."""
        onnx = require("onnx", extra="export")
        make, (_, rows), out = onnx.helper.make_node, node.input, node.output[0]
        wide = f"{out}_unscaled" if self.scaled else out
        nodes = [
            make("Gather", [self.values, rows], [f"{out}_narrow"], name=f"{out}_narrow"),
            make("Cast", [f"{out}_narrow"], [wide], name=wide, to=onnx.TensorProto.FLOAT),
        ]
        if self.scaled:
            nodes += [
                make("Gather", [self.scales, rows], [f"{out}_scales"], name=f"{out}_scales"),
                make("Mul", [wide, f"{out}_scales"], [out], name=out),
            ]
        return nodes

    def product(self, node: Any, dtype: np.dtype[Any]) -> list[Any]:
        """x (B, D) @ table.T in float32."""
        onnx = require("onnx", extra="export")
        make, x, out = onnx.helper.make_node, node.input[0], node.output[0]
        scores = f"{out}_unscaled" if self.scaled else out
        nodes = self._in_blocks(x, scores, dtype) if self.blocks else self._whole(x, scores)
        if self.scaled:
            nodes += [
                make("Transpose", [self.scales], [f"{out}_scales"], name=f"{out}_scales", perm=[1, 0]),
                make("Mul", [scores, f"{out}_scales"], [out], name=out),
            ]
        return nodes

    def _whole(self, x: str, out: str) -> list[Any]:
        onnx = require("onnx", extra="export")
        make = onnx.helper.make_node
        return [
            make("Cast", [self.values], [f"{out}_table"], name=f"{out}_table", to=onnx.TensorProto.FLOAT),
            make("Gemm", [x, f"{out}_table"], [out], name=out, transB=1),
        ]

    def _in_blocks(self, x: str, out: str, dtype: np.dtype[Any]) -> list[Any]:
        onnx = require("onnx", extra="export")
        make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
        block, wide, part = f"{out}_block", f"{out}_wide", f"{out}_part"
        body = onnx.helper.make_graph(
            [
                make("Cast", [block], [wide], name=wide, to=onnx.TensorProto.FLOAT),
                make("Gemm", [x, wide], [part], name=part, transB=1),
            ],
            f"{out}_body",
            [info(block, onnx.helper.np_dtype_to_tensor_dtype(dtype), [BLOCK_ROWS, self.width])],
            [info(part, onnx.TensorProto.FLOAT, [None, BLOCK_ROWS])],
        )
        constants = {"shape": [0, -1], "starts": [0], "ends": [self.rows], "axes": [1]}
        names = {name: f"{out}_{name}" for name in constants}
        nodes = [
            make("Constant", [], [names[name]], name=names[name], value_ints=values)
            for name, values in constants.items()
        ]
        return [
            *nodes,
            make(
                "Scan",
                [self.in_blocks],
                [f"{out}_parts"],
                name=f"{out}_parts",
                body=body,
                num_scan_inputs=1,
                scan_output_axes=[1],
            ),
            make("Reshape", [f"{out}_parts", names["shape"]], [f"{out}_padded"], name=f"{out}_padded"),
            make("Slice", [f"{out}_padded", names["starts"], names["ends"], names["axes"]], [out], name=out),
        ]


def _replace(field: Any, values: list[Any]) -> None:
    """Make a repeated field of a protobuf message hold `values`, some of which it may hold already."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)
