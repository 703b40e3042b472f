"""`hytrec_fused_append` in Triton's python backend; the work is done by `hytrec_export.serving.append_step`."""

from __future__ import annotations

from contextlib import ExitStack

from hytrec.signature import ENCODER, FUSED_APPEND
from hytrec_export.serving.triton_models.fused import open_fused
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel
from hytrec_export.serving.tuning import LONG_APPEND_QUEUE_SIZE


class TritonPythonModel(StepModel):
    """All steps of appends."""

    def open(self, args: Args, opened: ExitStack) -> Execute:
        """Open vocabulary, store and the encoder."""
        return open_fused(
            args, opened, model=FUSED_APPEND, graphs=(ENCODER,), appends=True, long_queue=LONG_APPEND_QUEUE_SIZE
        )
