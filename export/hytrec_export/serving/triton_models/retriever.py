"""`hytrec_retriever` in Triton's python backend, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import RETRIEVER
from hytrec_export.serving.triton_models.responses import respond, tensors_of
from hytrec_export.serving.triton_models.startup import graph_of, open_graph, starting


class TritonPythonModel:
    """One graph, one `execute` per server batch."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph."""
        self._graph = open_graph(graph_of(args), RETRIEVER)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run one server batch."""
        return respond(requests, self._graph.run, model=RETRIEVER, read=tensors_of)
