"""`hytrec_encoder` in Triton's python backend, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from hytrec.contract import Tensor
from hytrec.signature import ENCODER, ROW_TIMES
from hytrec_export.serving.triton_models.long_request_queue import LongRequestQueue
from hytrec_export.serving.triton_models.responses import tensors_of
from hytrec_export.serving.triton_models.startup import graph_of, runner_of, starting

RUN_OVERHEAD = 8
"""What one more run costs, in events."""
LONG_EVENTS = 256
"""From here on a call goes into the long lane."""
LONG_ROOM = 8


class TritonPythonModel:
    """One graph, one `execute` per server batch."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph."""
        runner = runner_of(graph_of(args), ENCODER, run_overhead=RUN_OVERHEAD)
        self._lanes = LongRequestQueue(
            answer=runner.answer, read=tensors_of, model=ENCODER, is_long=is_long, room=LONG_ROOM
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one server batch."""
        return self._lanes.execute(requests)

    def finalize(self) -> None:
        """Wait for long calls."""
        self._lanes.finish()


def is_long(request: Any, *, times: Tensor = ROW_TIMES) -> bool:
    """Whether a request belongs into the long lane, by the input that holds the times of its events."""
    found = pb_utils.get_input_tensor_by_name(request, times.name)
    return found is not None and max(found.shape(), default=0) >= LONG_EVENTS
