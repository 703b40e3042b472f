"""`hytrec_encoder` in Triton's python backend, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from hytrec.signature import ENCODER, ROW_TIMES
from hytrec_export.triton_models.batch import tensors_of
from hytrec_export.triton_models.lanes import Lanes
from hytrec_export.triton_models.setup import graph_of, runner_of, starting

RUN_COST = 8
"""What one more run costs, in events."""
LONG_EVENTS = 256
"""From here on a call goes into the long lane."""
LONG_ROOM = 8


class TritonPythonModel:
    """One graph, one `execute` per server batch."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph."""
        runner = runner_of(graph_of(args), ENCODER, run_cost=RUN_COST)
        self._lanes = Lanes(answer=runner.answer, read=tensors_of, model=ENCODER, is_long=_is_long, room=LONG_ROOM)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one server batch."""
        return self._lanes.execute(requests)

    def finalize(self) -> None:
        """Wait for long calls."""
        self._lanes.finish()


def _is_long(request: Any) -> bool:
    times = pb_utils.get_input_tensor_by_name(request, ROW_TIMES.name)
    return times is not None and max(times.shape()) >= LONG_EVENTS
