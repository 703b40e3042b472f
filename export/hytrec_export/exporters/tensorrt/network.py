"""Parses an ONNX file into TensorRT's network, strongly typed: every layer has the graph's types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hytrec.contract import Model, Sizes, Tensor
from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.log import Log

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""TensorRT's names of types -> numpy's."""


def parse(trt: Any, builder: Any, graph: Path, log: Log) -> Any:
    """The network of an .onnx file. Hold on to the builder for as long as to the network.

    Raises:
        BuildError: TensorRT cannot read the graph; the message names the node and the reason.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(graph)):  # tensor files stand beside it
        raise BuildError(
            f"TensorRT {trt.__version__} cannot parse {graph.name}: {_reason(parser, log)}; "
            "build for --target onnxruntime, or with the TensorRT that pyproject.toml names"
        )
    return network


def check_tensors(network: Any, *, model: Model, sizes: Sizes) -> None:
    """Compare a network's inputs and outputs with the signature table.

    Raises:
        BuildError: a name, type or shape differs.
    """
    for side, tensors, count, get in (
        ("input", model.inputs, network.num_inputs, network.get_input),
        ("output", model.outputs, network.num_outputs, network.get_output),
    ):
        wanted = [_wanted(tensor, sizes) for tensor in tensors]
        given = [described(get(position)) for position in range(count)]
        for want, got in zip(wanted, given, strict=False):
            if want != got:
                raise BuildError(
                    f"TensorRT read an {side} of {model.name} as {got}, the signature table has {want}; "
                    "export the graph again"
                )
        if len(wanted) != len(given):
            raise BuildError(
                f"TensorRT read {len(given)} {side}s of {model.name}, the signature table has {len(wanted)}; "
                "export the graph again"
            )


def described(tensor: Any) -> str:
    """For example "memory float32 [-1, 6, 2, 64, 64]"."""
    return f"{tensor.name} {dtype_of(tensor)} {[int(size) for size in tensor.shape]}"


def dtype_of(tensor: Any) -> str:
    """numpy's name of a TensorRT tensor's type."""
    name = str(tensor.dtype.name)
    return DTYPES.get(name, name.lower())


def _wanted(tensor: Tensor, sizes: Sizes) -> str:
    return f"{tensor.name} {tensor.dtype.value} {[-1, *sizes.shape(tensor)]}"


def _reason(parser: Any, log: Log) -> str:
    if not parser.num_errors:
        return log.reason()
    error = parser.get_error(0)
    reason = " ".join(error.desc().split())
    if error.node() < 0:
        return reason
    return f"node {error.node()} {error.node_name()!r} ({error.node_operator()}): {reason}"
