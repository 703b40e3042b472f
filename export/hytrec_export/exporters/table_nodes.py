"""Nodes that read a table in fewer bits, in the places of those that read it in float32.

A gathered row is cast to float32 behind the Gather. A product with the whole table goes through it in blocks, one of
which is float32 at a time; a row's scale multiplies what comes out, not the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hytrec_export.optional import require

BLOCK_ROWS = 8_192
"""Rows of a block; 4 MB in float32 at width 128. A table of no more is widened once, when the graph is loaded."""


@dataclass(frozen=True, kw_only=True)
class Readers:
    """Nodes that read a table, by their first outputs."""

    gathers: frozenset[str]
    transposes: frozenset[str]
    products: frozenset[str]


def readers_of(graph: Any, table: str) -> Readers | None:
    """Who reads a table in a graph (an `onnx.ModelProto`); None where something else does, or nothing."""
    nodes = [node for node in graph.graph.node if table in node.input]
    transposes = frozenset(node.output[0] for node in nodes if node.op_type == "Transpose")
    products = [node for node in graph.graph.node if transposes.intersection(node.input)]
    gathers = frozenset(node.output[0] for node in nodes if node.op_type == "Gather" and node.input[0] == table)
    direct = [node for node in nodes if node.output[0] not in transposes | gathers]
    if not nodes or not all(_is_product(node, transposes) for node in products):
        return None
    if not all(node.op_type == "Gemm" and list(node.input[1:]) == [table] for node in direct):
        return None
    return Readers(
        gathers=gathers,
        transposes=transposes,
        products=frozenset(node.output[0] for node in (*products, *direct)),
    )


def _is_product(node: Any, transposes: frozenset[str]) -> bool:
    return node.op_type == "MatMul" and node.input[1] in transposes and node.input[0] not in transposes


@dataclass(frozen=True, kw_only=True)
class NarrowTable:
    """A table in fewer bits: names of its initializers in a graph, and the nodes that take its readers' places.

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
        """The rows, (rows, width)."""
        return f"{self.name}_narrow"

    @property
    def scales(self) -> str:
        """Their scales, (rows, 1)."""
        return f"{self.name}_scales"

    @property
    def in_blocks(self) -> str:
        """The rows in blocks, (blocks, BLOCK_ROWS, width)."""
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
