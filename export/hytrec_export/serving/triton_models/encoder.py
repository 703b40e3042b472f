"""`hytrec_encoder` in Triton's python backend, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hytrec.signature import ENCODER, ROW_TIMES
from hytrec_export.serving.triton_models.long_request_queue import LongRequestQueue, is_long
from hytrec_export.serving.triton_models.responses import tensors_of
from hytrec_export.serving.triton_models.startup import graph_of, open_graph, starting


class TritonPythonModel:
    """One graph, one `execute` per server batch."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph."""
        self._queue = LongRequestQueue(
            run=open_graph(graph_of(args), ENCODER).run,
            read=tensors_of,
            model=ENCODER,
            is_long=partial(is_long, times=ROW_TIMES),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run one server batch."""
        return self._queue.execute(requests)

    def finalize(self) -> None:
        """Wait for long requests."""
        self._queue.finish()
