"""`hytrec_state_load` in Triton's python backend; the work is done by `hytrec_export.serving.load_step`."""

from __future__ import annotations

from contextlib import ExitStack

from hytrec.signature import STATE_LOAD
from hytrec_export.serving.counters import LOAD_COUNTERS
from hytrec_export.serving.load_step import LoadStep
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.startup import settings_of, store_of, vocabulary_of
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel, responding


class TritonPythonModel(StepModel):
    """First step of every endpoint."""

    def open(self, args: Args, opened: ExitStack) -> Execute:
        """Open vocabulary and store."""
        settings = settings_of(args)
        step = LoadStep(
            settings=settings,
            vocabulary=vocabulary_of(args),
            store=store_of(settings, opened),
            counters=TritonCounters(model=STATE_LOAD, counters=LOAD_COUNTERS),
        )
        return responding(step.run, STATE_LOAD)
