"""`hytrec_session_load` in Triton's python backend; the work is done by `hytrec_export.serving.session_steps`."""

from __future__ import annotations

from contextlib import ExitStack

from hytrec.signature import SESSION_LOAD
from hytrec_export.serving.counters import SESSION_LOAD_COUNTERS
from hytrec_export.serving.host_lookup import with_vectors
from hytrec_export.serving.session_steps import SessionLoadStep
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.startup import item_table_of, settings_of, vocabulary_of
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel, responding


class TritonPythonModel(StepModel):
    """First step of a session's endpoints."""

    def open(self, args: Args, opened: ExitStack) -> Execute:  # noqa: ARG002 - nothing to close
        """Open the vocabulary, and the item table where graphs are given its rows."""
        counters = TritonCounters(model=SESSION_LOAD, counters=SESSION_LOAD_COUNTERS)
        settings = settings_of(args)
        table = item_table_of(args, settings)
        step = SessionLoadStep(settings=settings, vocabulary=vocabulary_of(args), counters=counters)
        return responding(with_vectors(step.run, table), SESSION_LOAD)
