"""`hytrec_forget` in Triton's python backend; the work is done by `hytrec_export.serving.forget_step`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from hytrec.signature import FORGET
from hytrec_export.serving.counters import INTAKE_COUNTERS
from hytrec_export.serving.forget_step import ForgetStep
from hytrec_export.serving.triton_models.intake import Admitted, Intake
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.responses import respond
from hytrec_export.serving.triton_models.startup import settings_of, store_of
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel


class TritonPythonModel(StepModel):
    """Deletes everything stored of a user."""

    def open(self, args: Args, opened: ExitStack) -> Execute:
        """Open the store."""
        settings = settings_of(args)
        step = ForgetStep(settings=settings, store=store_of(settings, opened))
        respond_to = partial(respond, run=step.run, model=FORGET, read=Admitted.tensors)
        counters = TritonCounters(model=FORGET, counters=INTAKE_COUNTERS)
        intake = Intake(respond_to, model=FORGET, counters=counters)
        opened.callback(intake.close)
        return intake.execute
