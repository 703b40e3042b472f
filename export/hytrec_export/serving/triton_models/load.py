"""`hytrec_state_load` in Triton's python backend; the work is done by `hytrec_export.serving.load_step`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from hytrec.signature import ENCODER, GRAPHS, STATE_LOAD, STATE_SAVE, TIMES
from hytrec.vector_signature import VECTOR_ENCODER
from hytrec_export.catalog.watch import CatalogWatch
from hytrec_export.serving.counters import LOAD_COUNTERS
from hytrec_export.serving.host_lookup import with_vectors
from hytrec_export.serving.lengths import Lengths
from hytrec_export.serving.load_step import LoadStep
from hytrec_export.serving.triton_models.intake import Admitted, Intake
from hytrec_export.serving.triton_models.long_request_queue import LongRequestQueue, is_long
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.other_model import infer
from hytrec_export.serving.triton_models.startup import (
    item_table_of,
    repository_of,
    settings_of,
    store_of,
    view_of,
    vocabulary_of,
)
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel


class TritonPythonModel(StepModel):
    """First step of every endpoint; long requests and users who are encoded again wait in a queue of their own."""

    def open(self, args: Args, opened: ExitStack) -> Execute:
        """Open vocabulary and store, and the item table where graphs are given its rows."""
        settings, vocabulary = settings_of(args), vocabulary_of(args)
        table = item_table_of(args, settings)
        watch = CatalogWatch(repository_of(args), settings, vocabulary)
        counters = TritonCounters(model=STATE_LOAD, counters=LOAD_COUNTERS)
        store = store_of(settings, opened, counters=counters)
        store.catalog_mark = watch.mark
        step = LoadStep(
            settings=settings,
            vocabulary=vocabulary,
            store=store,
            counters=counters,
            lengths=Lengths.of(settings, short_events=store.snapshot_every),
            encode=table.feeding(partial(infer, VECTOR_ENCODER)) if table else partial(infer, ENCODER),
            view=view_of(settings, watch, max_hidden=settings.limits.max_excluded),
        )
        queue = LongRequestQueue(
            run=with_vectors(step.run, table),
            run_long=with_vectors(partial(step.run, long=True), table),
            read=Admitted.tensors,
            model=STATE_LOAD,
            is_long=lambda admitted: is_long(admitted.triton, times=TIMES),
        )
        opened.callback(queue.finish)
        intake = Intake(queue.execute, model=STATE_LOAD, counters=counters, later=(*GRAPHS, STATE_SAVE))
        opened.callback(intake.close)
        return intake.execute
