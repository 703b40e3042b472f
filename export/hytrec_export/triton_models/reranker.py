"""`hytrec_reranker` in Triton's python backend, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import RERANKER
from hytrec_export.triton_models.batch import respond
from hytrec_export.triton_models.session import open_runner
from hytrec_export.triton_models.setup import model_folder, starting

RUN_COST = 256
"""What one more run costs, in candidates."""


class TritonPythonModel:
    """One graph, one `execute` per server batch."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph."""
        self._runner = open_runner(model_folder(args), RERANKER, run_cost=RUN_COST)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one server batch."""
        return respond(requests, self._runner.answer, model=RERANKER)
