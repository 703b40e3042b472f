"""`hytrec_retriever` in Triton's python backend, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import RETRIEVER
from hytrec_export.serving.triton_models.responses import respond, tensors_of
from hytrec_export.serving.triton_models.startup import graph_of, runner_of, starting

RUN_OVERHEAD = 4096
"""What one more run costs, in excluded items, which cost next to nothing."""


class TritonPythonModel:
    """One graph, one `execute` per server batch."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph."""
        self._runner = runner_of(graph_of(args), RETRIEVER, run_overhead=RUN_OVERHEAD)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one server batch."""
        return respond(requests, self._runner.answer, model=RETRIEVER, read=tensors_of)
