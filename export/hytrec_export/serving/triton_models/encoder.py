"""`hytrec_encoder` in Triton's python backend, run by onnxruntime."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from hytrec.signature import ENCODER, ROW_TIMES
from hytrec_export.serving.triton_models.long_request_queue import LongRequestQueue, is_long
from hytrec_export.serving.triton_models.responses import tensors_of
from hytrec_export.serving.triton_models.startup import graph_of, live_tables_of, open_graph
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel


class TritonPythonModel(StepModel):
    """One graph; long requests wait in a queue of their own."""

    def open(self, args: Args, opened: ExitStack) -> Execute:
        """Open the graph."""
        graph = open_graph(graph_of(args), ENCODER, live=live_tables_of(args, ENCODER))
        queue = LongRequestQueue(
            run=graph.run, read=tensors_of, model=ENCODER, is_long=partial(is_long, times=ROW_TIMES)
        )
        opened.callback(queue.finish)
        return queue.execute
