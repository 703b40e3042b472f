"""Runs a mixed graph on a CPU with every float16 rounding that is written in it.

onnxruntime has no float16 products on a CPU. It casts their inputs to float32, and then drops each pair of casts that
has come about, and with it the rounding: 1.31 runs a mixed graph in float32 (seen: "InsertedPrecisionFreeCast"). An
Identity behind every float16 value, which it is told to leave, keeps the pairs apart; else the graph stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from hytrec_export.errors import RepositoryError
from hytrec_export.optional import require
from hytrec_export.runtime.runners import Arrays
from hytrec_export.verification.parity.golden import CATALOGUE_SCORES

_TENSOR_FOLDER = "session.model_external_initializers_file_folder_path"
_ROUNDING = frozenset({"Cast", "MatMul", "Gemm"})


class Fp16EmulationRunner:
    """onnxruntime on the CPU, float16 roundings included; a `hytrec_export.runtime.runners.Runner`.

    The retriever's also gives what its TopK takes, the score of every row, as `CATALOGUE_SCORES`.

    Args:
        graph: the .onnx file.
    """

    def __init__(self, graph: Path) -> None:
        self._graph = graph
        self._session: Any = None
        self._names: list[str] = []

    def __enter__(self) -> Self:
        """Load the graph.

        Raises:
            RepositoryError: the file is missing or no graph, or onnxruntime refuses it.
            MissingPackageError: onnx or onnxruntime is not installed.
        """
        onnx, onnxruntime = require("onnx", extra="export"), require("onnxruntime", extra="embedded")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            graph = onnx.load(self._graph, load_external_data=False)
            options.add_session_config_entry(_TENSOR_FOLDER, str(self._graph.parent))
            show_catalogue_scores(graph)
            hold_rounding(graph)
            self._session = onnxruntime.InferenceSession(
                graph.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["EliminateIdentity"],
            )
        except FileNotFoundError:
            raise RepositoryError(f"{self._graph} is missing; build the repository again") from None
        except Exception as error:  # protobuf's and onnxruntime's errors have no other common base
            reason = " ".join(str(error).split())
            raise RepositoryError(f"{self._graph} cannot be run ({reason}); build the repository again") from error
        self._names = [output.name for output in self._session.get_outputs()]
        return self

    def __exit__(self, *_: object) -> None:
        """Free the graph."""
        self._session = None

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs by name -> all outputs by name."""
        return dict(zip(self._names, self._session.run(None, dict(feed)), strict=True))


def hold_rounding(graph: Any) -> int:
    """Put an Identity behind every value that is rounded to float16, in place (an `onnx.ModelProto`): how many."""
    onnx = require("onnx", extra="export")
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    half = {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    nodes: list[Any] = []
    held: dict[str, str] = {}
    for node in graph.graph.node:
        node.input[:] = [held.get(name, name) for name in node.input]
        nodes.append(node)
        if node.op_type in _ROUNDING and node.output[0] in half:
            name = node.output[0]
            held[name] = f"{name}_held"
            nodes.append(onnx.helper.make_node("Identity", [name], [held[name]], name=held[name]))
    _replace_nodes(graph, nodes)
    return len(held)


def show_catalogue_scores(graph: Any) -> None:
    """Make what a TopK takes an output of the graph, named `CATALOGUE_SCORES`; without a TopK nothing changes."""
    onnx = require("onnx", extra="export")
    nodes = list(graph.graph.node)
    taken = [node.input[0] for node in nodes if node.op_type == "TopK"]
    if not taken:
        return
    nodes.append(onnx.helper.make_node("Identity", taken[:1], [CATALOGUE_SCORES], name=CATALOGUE_SCORES))
    _replace_nodes(graph, nodes)
    value = onnx.helper.make_tensor_value_info(CATALOGUE_SCORES, onnx.TensorProto.FLOAT, None)
    graph.graph.output.append(value)


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(copies)
