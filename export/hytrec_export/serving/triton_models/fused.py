"""`hytrec_fused` in Triton's python backend; the work is done by `hytrec_export.serving.fused_pipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hytrec.signature import FUSED, GRAPHS, STATE_LOAD, STATE_SAVE, TIMES
from hytrec_export.repository.layout import graph_files
from hytrec_export.runtime.padding import FINE_STEPS_PER_OCTAVE
from hytrec_export.serving.counters import LOAD_COUNTERS, SAVE_COUNTERS
from hytrec_export.serving.fused_pipeline import FusedPipeline, PipelineRequest, endpoint_of
from hytrec_export.serving.load_step import LoadStep
from hytrec_export.serving.peer_activity import PeerActivity
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.serving.triton_models.long_request_queue import LongRequestQueue, is_long
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.responses import tensors_of
from hytrec_export.serving.triton_models.startup import (
    open_graph,
    repository_of,
    settings_of,
    starting,
    store_of,
    vocabulary_of,
)
from hytrec_export.settings import FILE_NAME


class TritonPythonModel:
    """All steps, one `execute` per server batch."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open vocabulary, store and graphs."""
        settings, vocabulary = settings_of(args), vocabulary_of(args)
        files = graph_files(repository_of(args))
        self._peers = PeerActivity(repository_of(args) / FILE_NAME)
        graphs = {
            model.name: open_graph(files[model.name], model, peers_idle=self._peers.peers_idle).run for model in GRAPHS
        }
        self._store = store_of(settings)
        load = LoadStep(
            settings=settings,
            vocabulary=vocabulary,
            store=self._store,
            counters=TritonCounters(model=STATE_LOAD, counters=LOAD_COUNTERS),
            steps_per_octave=FINE_STEPS_PER_OCTAVE,
        )
        save = SaveStep(
            settings=settings,
            vocabulary=vocabulary,
            store=self._store,
            counters=TritonCounters(model=STATE_SAVE, counters=SAVE_COUNTERS),
        )
        pipeline = FusedPipeline(graphs | {STATE_LOAD.name: load.run, STATE_SAVE.name: save.run})
        self._queue = LongRequestQueue(
            run=self._peers.marking_busy(pipeline.run),
            read=_pipeline_request,
            model=FUSED,
            is_long=partial(is_long, times=TIMES),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run one server batch."""
        return self._queue.execute(requests)

    def finalize(self) -> None:
        """Wait for long requests; close the store."""
        self._queue.finish()
        self._store.close()
        self._peers.close()


def _pipeline_request(request: Any) -> PipelineRequest:
    return PipelineRequest(
        endpoint=endpoint_of(frozenset(request.requested_output_names())), inputs=tensors_of(request)
    )
