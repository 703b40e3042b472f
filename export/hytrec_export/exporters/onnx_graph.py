"""ONNX export: one graph from one module, cleaned and checked against the signature table."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hytrec import __version__
from hytrec.contract import DType, Model, Sizes, Tensor, next_name
from hytrec.modeling.model import HyTRec
from hytrec.signature import CARRIED_PREFIX, CARRIED_STATE, GRAPHS
from hytrec.vector_signature import CARRIED_VECTORS, VECTOR_RERANKER
from hytrec_export.errors import BuildError
from hytrec_export.exporters.gather_indices import keep_int32_indices
from hytrec_export.exporters.large_products import multiply_unpacked, unfold_tables
from hytrec_export.exporters.live_tables import ITEM_TABLE
from hytrec_export.exporters.lowering import delta_rule_of
from hytrec_export.exporters.mixed_precision import narrow_limit, to_mixed_precision
from hytrec_export.exporters.precision_check import check_precision
from hytrec_export.exporters.tensor_files import (
    LARGE_BYTES,
    TensorFiles,
    attach,
    check_without_files,
    leave_out,
    link_or_copy,
)
from hytrec_export.exporters.wrapper import split
from hytrec_export.optional import require
from hytrec_export.options import Lowering, Precision, Retrieval
from hytrec_export.progress import Advance, ignore
from hytrec_export.runtime.item_vectors import ITEM_TABLE_FILE
from hytrec_export.runtime.runners import MAX_EVENTS
from hytrec_export.settings import ServingSettings

OPSETS = {Lowering.FUSED: 23, Lowering.CHUNKED: 20}
"""onnxruntime 1.31 reads up to 26, TensorRT 10 and 11 up to 24 and 25. 23 has RMSNormalization, one node for seven;
older versions do not know it, and TensorRT fuses the seven itself."""
PRODUCER = "hytrec-export"
BATCH_AXIS = "B"
EXAMPLE_SIZES = {BATCH_AXIS: 2, "T": 1_100, "N": 5, "X": 4}
"""Sizes of the dynamic axes while tracing. No size may come out as 1, which the exporter takes for a constant: not B,
nor what is made of T, the number of chunks of 64 and of groups of 8 chunks."""
MAX_GRAPH_BYTES = 2**31 - 1
"""protobuf's limit for one file. Large weights do not count: they stand in files of their own."""

LIVE_PRODUCTS = frozenset({ITEM_TABLE, "scan.codes"})
"""Tables that products of the retriever read."""

_CARRIED = (*CARRIED_STATE, CARRIED_VECTORS)
_TORCH_DTYPES = {DType.FLOAT32: torch.float32, DType.INT64: torch.int64}


def export_graphs(
    model: HyTRec,
    folder: Path,
    *,
    settings: ServingSettings,
    lowering: Lowering,
    precision: Precision = Precision.FLOAT32,
    retrieval: Retrieval = Retrieval.EXACT,
    graphs: Sequence[Model] = GRAPHS,
    live: bool = False,
    on_graph: Advance = ignore,
) -> dict[str, Path]:
    """Write the three graphs into `folder`, beside the tensor files that they share: their files by model name.

    Where they are given item vectors, the table to look them up in is written beside them.

    Args:
        precision: FLOAT32 or MIXED; `fp16_weights` makes HALF_WEIGHTS of the float32 files.
        retrieval: EXACT or APPROXIMATE.
        graphs: `BuildPlan.graphs`.
        live: the item table changes while it is served.
        on_graph: called with the number of graphs just done.

    Raises:
        BuildError: a graph's tensors are not those of the table, its small weights are too many for one file, or it has
            not the precision that it should have.
        MissingPackageError: onnx or onnxscript is not installed.
    """
    exported = to_mixed_precision(model) if precision is Precision.MIXED else model
    delta_rule = delta_rule_of(lowering, max_events=settings.limits.max_events)
    host_lookup = VECTOR_RERANKER in graphs
    modules = split(exported, delta_rule=delta_rule, retrieval=retrieval, host_lookup=host_lookup)
    metadata = {"fingerprint": settings.fingerprint, "lowering": lowering.value, "precision": precision.value}
    if lowering is Lowering.CHUNKED:
        metadata[MAX_EVENTS] = str(settings.limits.max_events)
    paths, files = {}, TensorFiles(folder)
    for served in graphs:
        paths[served.name] = folder / f"{served.name}.onnx"
        export_graph(
            modules[served.name],
            paths[served.name],
            model=served,
            sizes=settings.sizes,
            opset=OPSETS[lowering],
            metadata=metadata,
            precision=precision,
            narrow=narrow_limit(model),
            files=files,
            live=live,
        )
        on_graph(1)
    if host_lookup:
        table = files.write("item_table", exported.item_table.weight.detach().numpy())
        link_or_copy(folder / table, folder / ITEM_TABLE_FILE)
    return paths


def export_graph(
    module: nn.Module,
    path: Path,
    *,
    model: Model,
    sizes: Sizes,
    opset: int,
    metadata: Mapping[str, str],
    precision: Precision = Precision.FLOAT32,
    narrow: int = 0,
    files: TensorFiles | None = None,
    live: bool = False,
) -> None:
    """Write `module` as the ONNX graph of `model`, its large weights beside it.

    Args:
        module: its forward takes and returns the tensors of `model`, in the table's order.
        opset: version of ONNX's operators to write.
        metadata: strings kept in the graph.
        precision: a mixed module comes as such (`exporters.mixed_precision`), and its graph is checked.
        narrow: maximum columns of a weight that is float32 in either.
        files: of the graphs in this folder; what one of them has written is not written again.
        live: the item table changes while it is served: nothing is made of it beforehand.

    Raises:
        BuildError: the graph's tensors are not those of the table, its small weights are too many for one file, or it
            has not the precision that it should have.
        MissingPackageError: onnx or onnxscript is not installed.
    """
    onnx = require("onnx", extra="export")
    require("onnxscript", extra="export")
    weights = module.state_dict()
    small_bytes = sum(tensor.nbytes for tensor in weights.values() if tensor.nbytes < LARGE_BYTES)
    if small_bytes > MAX_GRAPH_BYTES:
        raise BuildError(
            f"the weights of {model.name} of less than {LARGE_BYTES} bytes each take {small_bytes} bytes together and "
            f"an ONNX file holds {MAX_GRAPH_BYTES}; train with fewer layers or a smaller width"
        )
    outputs = tuple(tensor for tensor in model.outputs if tensor not in _CARRIED)
    graph = _traced(module, replace(model, outputs=outputs), sizes, opset)
    unfold_tables(graph)
    keep_int32_indices(graph)
    values = {name: tensor.numpy() for name, tensor in weights.items()}
    attach(graph, files or TensorFiles(path.parent), values, always=LIVE_PRODUCTS if live else frozenset())
    multiply_unpacked(graph, min_bytes=0 if live else None)
    _strip(graph.graph)
    carry_state(graph, [tensor for tensor in model.outputs if tensor in _CARRIED])
    graph.producer_name, graph.producer_version = PRODUCER, __version__
    onnx.helper.set_model_props(graph, {"model": model.name, **metadata})
    check_graph(graph, model=model, sizes=sizes)
    if precision is Precision.MIXED:
        check_precision(graph, model=model.name, narrow=narrow)
    path.write_bytes(graph.SerializeToString())


def carry_state(graph: Any, tensors: Sequence[Tensor] = CARRIED_STATE) -> None:
    """Copy outputs of an encoder's state to outputs of their own for Triton's sequence batcher, in place.

    Args:
        graph: an `onnx.ModelProto`.
        tensors: the copies.
    """
    onnx = require("onnx", extra="export")
    outputs = {value.name: value for value in graph.graph.output}
    for carried in tensors:
        source = outputs[next_name(carried.name.removeprefix(CARRIED_PREFIX))]
        graph.graph.node.append(onnx.helper.make_node("Identity", [source.name], [carried.name], name=carried.name))
        graph.graph.output.add(name=carried.name, type=source.type)


def check_graph(graph: Any, *, model: Model, sizes: Sizes) -> None:
    """Compare a graph (an `onnx.ModelProto`) with the table.

    Raises:
        BuildError: onnx finds it invalid, or a tensor's name, place, type or axes differ from the table's.
    """
    onnx = require("onnx", extra="export")
    try:
        check_without_files(graph)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise BuildError(
            f"the graph of {model.name} is not valid ONNX ({reason}); install the versions that pyproject.toml names"
        ) from error
    weights = {tensor.name for tensor in graph.graph.initializer}
    for side, tensors, values in (
        ("input", model.inputs, [value for value in graph.graph.input if value.name not in weights]),
        ("output", model.outputs, graph.graph.output),
    ):
        wanted = [_described(tensor, sizes) for tensor in tensors]
        given = [_described_value(onnx, value) for value in values]
        for number, (want, got) in enumerate(zip_longest(wanted, given, fillvalue="nothing"), 1):
            if want != got:
                raise BuildError(
                    f"{side} {number} of the graph of {model.name} is {got}, the signature table has {want}; "
                    "bring hytrec_export.exporters.wrapper in line with the table"
                )


def _traced(module: nn.Module, model: Model, sizes: Sizes, opset: int) -> Any:
    axes = {letter: torch.export.Dim(letter) for letter in EXAMPLE_SIZES}
    examples = tuple(_example(tensor, sizes) for tensor in model.inputs)
    shapes = torch.export.ShapesCollection()
    for tensor, example in zip(model.inputs, examples, strict=True):
        letters = enumerate((BATCH_AXIS, *map(str, tensor.axes)))
        shapes[example] = {position: axes[letter] for position, letter in letters if letter in axes}
    # The cache of fake tensors hashes every size as an expression of B and T, which costs more than it saves.
    with _quiet(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):  # noqa: SLF001  its public switch
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            opset_version=opset,
            input_names=model.input_names(),
            output_names=model.output_names(),
            dynamic_shapes=shapes.dynamic_shapes(module, examples),
            verbose=False,
        )
    if program is None:  # for the type checker: only dynamo=False returns nothing
        raise TypeError(program)
    leave_out(program.model, frozenset(module.state_dict()))
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own warnings (torchvision missing, axis names reused) off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _example(tensor: Tensor, sizes: Sizes) -> torch.Tensor:
    shape = [EXAMPLE_SIZES[BATCH_AXIS], *(EXAMPLE_SIZES.get(str(axis)) or sizes.axis(axis) for axis in tensor.axes)]
    return torch.ones(shape, dtype=_TORCH_DTYPES[tensor.dtype])


def _strip(graph: Any) -> None:
    """Drop the exporter's notes: stack traces with paths of the build machine, shapes of inner tensors."""
    graph.ClearField("value_info")
    graph.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")


def _described(tensor: Tensor, sizes: Sizes) -> str:
    """For example "memory float32 [B, 6, 2, 64, 64]"."""
    axes = [BATCH_AXIS, *(str(axis) if sizes.axis(axis) < 0 else str(sizes.axis(axis)) for axis in tensor.axes)]
    return f"{tensor.name} {tensor.dtype.value} [{', '.join(axes)}]"


def _described_value(onnx: Any, value: Any) -> str:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    axes = [axis.dim_param or str(axis.dim_value) for axis in kind.shape.dim]
    return f"{value.name} {dtype} [{', '.join(axes)}]"
