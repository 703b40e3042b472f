"""Checks the types of a mixed graph: large products float16, everything that must stay float32 so.

The types are those that ONNX's own inference gives, from which TensorRT builds a strongly typed network too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hytrec_export.errors import BuildError
from hytrec_export.exporters.mixed_precision import narrowest
from hytrec_export.optional import require

LARGE = 4_096
"""A product with a weight of this many elements is float16."""
_FLOAT32, _FLOAT16 = 1, 10  # numbers of onnx.TensorProto
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_MOVES = frozenset({"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze"}) | {
    "Transpose",
    "Unsqueeze",
}
_TO_LOGITS = _MOVES | {"Add", "Div", "Mul", "Where"}
"""What may stand between the product of queries and keys and the softmax."""


@dataclass(frozen=True, kw_only=True)
class Products:
    """How many matrix products a graph has of each type."""

    float16: int
    float32: int


def check_precision(graph: Any, *, model: str, narrow: int = 0) -> Products:
    """Walk a mixed graph (an `onnx.ModelProto`) node by node.

    Args:
        model: its name, for messages.
        narrow: a weight of no more rows or columns than this stays float32.

    Raises:
        BuildError: a large product is not float16, or something else is.
    """
    view = _View(graph)
    counts = {_FLOAT16: 0, _FLOAT32: 0}
    for node in graph.graph.node:
        types = [view.type_of(name, node, model) for name in (*node.input, *node.output) if name]
        half = _FLOAT16 in types
        if node.op_type in _PRODUCTS:
            counts[_FLOAT16 if half else _FLOAT32] += 1
            reason = view.why_large(node, narrow)
            if reason and set(types) != {_FLOAT16}:
                raise BuildError(
                    f"{node.op_type} {node.name} of {model} is {_names(types)} and must be float16, being {reason}; "
                    "let hytrec_export.exporters.mixed_precision take its module's place"
                )
            if half and not reason and view.weight_of(node, narrow) is None:
                raise BuildError(_stays_float32(node, model))
        elif half and node.op_type not in _MOVES:
            raise BuildError(_stays_float32(node, model))
    return Products(float16=counts[_FLOAT16], float32=counts[_FLOAT32])


def _stays_float32(node: Any, model: str) -> str:
    return (
        f"{node.op_type} {node.name} of {model} is float16 and must stay float32: only large products are float16, "
        "and what moves their data; let hytrec_export.exporters.mixed_precision leave its module as it is"
    )


class _View:
    """A graph's values: their types, who makes them, who reads them."""

    def __init__(self, graph: Any) -> None:
        self._initializers = {tensor.name: tensor for tensor in graph.graph.initializer}
        self._makers = {name: node for node in graph.graph.node for name in node.output}
        self._types = _inferred_types(graph)
        self._attention = frozenset(self._attention_products(graph.graph.node))

    def type_of(self, name: str, node: Any, model: str) -> int:
        """Raises: BuildError: it is unknown."""
        if name not in self._types:
            raise BuildError(
                f"the type of {name} at {node.op_type} {node.name} of {model} is unknown; "
                "install the versions that pyproject.toml names"
            )
        return self._types[name]

    def why_large(self, node: Any, narrow: int) -> str:
        """Why a product has to be float16; empty where it need not."""
        if id(node) in self._attention:
            return "a product of attention"
        weight = self.weight_of(node, narrow)
        if weight is None or math.prod(weight.dims) < LARGE or (weight.data_type == _FLOAT32 and _is_mask(weight)):
            return ""
        return f"a product with a weight of {' x '.join(map(str, weight.dims))}"

    def weight_of(self, node: Any, narrow: int) -> Any:
        """The weight that a product has, if it is not narrow."""
        for tensor in filter(None, map(self._constant, node.input[:2])):
            if narrowest(tensor.dims) > narrow:
                return tensor
        return None

    def _constant(self, name: str) -> Any:
        """The initializer behind a value that is only moved; None where it is computed."""
        while name not in self._initializers:
            node = self._makers.get(name)
            if node is None or node.op_type not in _MOVES or node.op_type in {"Gather", "Concat"}:
                return None
            name = node.input[0]
        return self._initializers[name]

    def _attention_products(self, nodes: Any) -> Iterator[int]:
        """Identities of the products that a softmax is made of and that its shares are multiplied in."""
        shares = set()
        for node in nodes:
            if node.op_type == "Softmax":
                yield from (id(product) for product in self._products_behind(node.input[0]))
                shares.add(node.output[0])
            elif node.op_type in _MOVES and node.input[0] in shares:
                shares.add(node.output[0])
            elif node.op_type == "MatMul" and node.input[0] in shares:
                yield id(node)

    def _products_behind(self, name: str) -> Iterator[Any]:
        node = self._makers.get(name)
        if node is None:
            return
        if node.op_type in _PRODUCTS and not any(map(self._constant, node.input[:2])):
            yield node
        elif node.op_type in _TO_LOGITS:
            for source in node.input:
                yield from self._products_behind(source)


def _inferred_types(graph: Any) -> Mapping[str, int]:
    onnx = require("onnx", extra="export")
    known = onnx.ModelProto()
    known.CopyFrom(graph)
    for node in known.graph.node:
        if (
            node.op_type == "LinearAttention"
        ):  # onnx does not know onnxruntime's operators; this one gives what it takes
            known.graph.value_info.extend(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output
            )
    inferred = onnx.shape_inference.infer_shapes(known).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    return {name: number for name, number in types.items() if number}


def _is_mask(tensor: Any) -> bool:
    """Whether it only chooses and weighs nothing: zeros and ones, as the delta rule has them."""
    onnx = require("onnx", extra="export")
    if onnx.external_data_helper.uses_external_data(tensor):
        return False
    return bool(np.isin(onnx.numpy_helper.to_array(tensor), (0, 1)).all())


def _names(types: list[int]) -> str:
    names = {_FLOAT32: "float32", _FLOAT16: "float16"}
    return " and ".join(dict.fromkeys(names.get(number, f"type {number}") for number in types))
