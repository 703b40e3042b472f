"""Types of a parsed network's layers: a mixed build must multiply in float16 and nothing may do so by accident.

A strongly typed engine computes in the types of its network, so that what is checked here holds of the engine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.network import dtype_of
from hytrec_export.options import Precision

LARGE = 4_096
"""Elements of a weight from where its product must be float16 in a mixed build."""
PRODUCTS = frozenset({"MATRIX_MULTIPLY", "EINSUM", "CONVOLUTION"})
EXACT = frozenset({"ACTIVATION", "CUMULATIVE", "ELEMENTWISE", "NORMALIZATION", "REDUCE", "SOFTMAX", "TOPK", "UNARY"})
"""Types of layers that compute and are no products: float32 in every build. The delta rule is made of these, and of
products without a weight."""
HALF = frozenset({"float16", "bfloat16"})
_MOVES = frozenset({"CAST", "IDENTITY", "SHUFFLE", "SQUEEZE", "UNSQUEEZE"})
"""Through these a weight reaches its product."""

Counts = dict[str, dict[str, int]]
"""Layers by type and by dtype of their first output, for example {"matrix_multiply": {"float16": 60}}."""


def count_layers(network: Any) -> Counts:
    """How many layers of each type and dtype a network has."""
    counted = Counter((_kind(layer).lower(), dtype_of(layer.get_output(0))) for layer in _layers(network))
    counts: Counts = {}
    for (kind, dtype), number in sorted(counted.items()):
        counts.setdefault(kind, {})[dtype] = number
    return counts


def check_layers(network: Any, *, precision: Precision, graph: str, exact_products: bool) -> None:
    """Compare the layers' types with the precision of the build.

    Args:
        graph: its name, for the message.
        exact_products: whether products without a weight must be float32: the encoder's are the delta rule.

    Raises:
        BuildError: a large product is not float16, or something is that must not be.
    """
    producers = {layer.get_output(k).name: layer for layer in _layers(network) for k in range(layer.num_outputs)}
    for layer in _layers(network):
        dtypes = {dtype_of(tensor) for tensor in (*_inputs(layer), layer.get_output(0))}
        if precision is not Precision.MIXED:
            if dtypes & HALF:
                raise _wrong(layer, graph, "is float16 in a float32 build")
        elif _kind(layer) in EXACT and dtypes & HALF:
            raise _wrong(layer, graph, "computes in float16, which is for products and tables alone")
        elif _kind(layer) in PRODUCTS:
            weight = _weight_size(layer, producers)
            if weight >= LARGE and dtypes != {"float16"}:
                raise _wrong(layer, graph, f"multiplies by {weight} weights in {' and '.join(sorted(dtypes))}")
            if not weight and exact_products and dtypes & HALF:
                raise _wrong(layer, graph, "is a product of the delta rule in float16, which loses the state")


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(position) for position in range(network.num_layers))


def _kind(layer: Any) -> str:
    return str(layer.type.name)


def _inputs(layer: Any) -> list[Any]:
    tensors = [layer.get_input(position) for position in range(layer.num_inputs)]
    return [tensor for tensor in tensors if tensor is not None]


def _weight_size(layer: Any, producers: dict[str, Any]) -> int:
    """Elements of a product's constant side; 0 if it has none."""
    return max((_constant_size(tensor, producers) for tensor in _inputs(layer)), default=0)


def _constant_size(tensor: Any, producers: dict[str, Any]) -> int:
    layer = producers.get(tensor.name)
    while layer is not None and _kind(layer) in _MOVES:
        layer = producers.get(layer.get_input(0).name)
    if layer is None or _kind(layer) != "CONSTANT":
        return 0
    return math.prod(int(size) for size in layer.get_output(0).shape)


def _wrong(layer: Any, graph: str, what: str) -> BuildError:
    return BuildError(
        f"layer {layer.name} ({_kind(layer).lower()}) of {graph} {what}; the engine would not have the "
        "precision of the build, export the graph again"
    )
