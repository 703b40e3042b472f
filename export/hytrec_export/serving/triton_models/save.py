"""`hytrec_state_save` in Triton's python backend; the work is done by `hytrec_export.serving.save_step`."""

from __future__ import annotations

from contextlib import ExitStack

from hytrec.signature import STATE_SAVE
from hytrec_export.catalog.watch import CatalogWatch
from hytrec_export.serving.counters import SAVE_COUNTERS
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.startup import repository_of, settings_of, store_of, view_of, vocabulary_of
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel, responding


class TritonPythonModel(StepModel):
    """Last step of every endpoint: commits, then responds."""

    def open(self, args: Args, opened: ExitStack) -> Execute:
        """Open vocabulary and store."""
        settings, vocabulary = settings_of(args), vocabulary_of(args)
        watch = CatalogWatch(repository_of(args), settings, vocabulary)
        step = SaveStep(
            settings=settings,
            vocabulary=vocabulary,
            store=store_of(settings, opened),
            counters=TritonCounters(model=STATE_SAVE, counters=SAVE_COUNTERS),
            view=view_of(settings, watch, max_hidden=settings.limits.max_excluded),
        )
        return responding(step.run, STATE_SAVE)
