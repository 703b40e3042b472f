"""`hytrec_forget` in Triton's python backend; the work is done by `hytrec_export.serving.forget_step`."""

from __future__ import annotations

from contextlib import ExitStack

from hytrec.signature import FORGET
from hytrec_export.serving.forget_step import ForgetStep
from hytrec_export.serving.triton_models.startup import settings_of, store_of
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel, responding


class TritonPythonModel(StepModel):
    """Deletes everything stored of a user."""

    def open(self, args: Args, opened: ExitStack) -> Execute:
        """Open the store."""
        settings = settings_of(args)
        return responding(ForgetStep(settings=settings, store=store_of(settings, opened)).run, FORGET)
