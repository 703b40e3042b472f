"""`hytrec_session_save` in Triton's python backend; the work is done by `hytrec_export.serving.session_steps`."""

from __future__ import annotations

from contextlib import ExitStack

from hytrec.signature import SESSION_SAVE
from hytrec_export.serving.session_steps import SessionSaveStep
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.startup import settings_of, vocabulary_of
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel, responding


class TritonPythonModel(StepModel):
    """Last step of a session's endpoints."""

    def open(self, args: Args, opened: ExitStack) -> Execute:  # noqa: ARG002 - nothing to close
        """Open the vocabulary."""
        counters = TritonCounters(model=SESSION_SAVE, counters=())
        step = SessionSaveStep(settings=settings_of(args), vocabulary=vocabulary_of(args), counters=counters)
        return responding(step.run, SESSION_SAVE)
