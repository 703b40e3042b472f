"""`hytrec_fused` in Triton's python backend; the work is done by `hytrec_export.serving.fused_pipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hytrec.signature import ENCODER, FUSED, RERANKER, RETRIEVER, STATE_LOAD, STATE_SAVE, TIMES
from hytrec_export.repository.layout import graph_files
from hytrec_export.runtime.padding import FINE_STEPS_PER_OCTAVE
from hytrec_export.serving.fused_pipeline import FusedPipeline, PipelineRequest, endpoint_of
from hytrec_export.serving.load_step import LoadStep
from hytrec_export.serving.peer_activity import PeerActivity
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.serving.triton_models import encoder, load, reranker, retriever, save
from hytrec_export.serving.triton_models.long_request_queue import LongRequestQueue
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.responses import tensors_of
from hytrec_export.serving.triton_models.startup import (
    repository_of,
    runner_of,
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
        graphs = graph_files(repository_of(args))
        self._neighbours = PeerActivity(repository_of(args) / FILE_NAME)
        run_costs = {ENCODER: encoder.RUN_OVERHEAD, RETRIEVER: retriever.RUN_OVERHEAD, RERANKER: reranker.RUN_OVERHEAD}
        runners = {
            model.name: runner_of(graphs[model.name], model, run_overhead=cost, alone=self._neighbours.alone).answer
            for model, cost in run_costs.items()
        }
        self._store = store_of(settings)
        loader = LoadStep(
            settings=settings,
            vocabulary=vocabulary,
            store=self._store,
            counters=TritonCounters(model=STATE_LOAD, events=load.COUNTED),
            steps_per_octave=FINE_STEPS_PER_OCTAVE,
        )
        saver = SaveStep(
            settings=settings,
            vocabulary=vocabulary,
            store=self._store,
            counters=TritonCounters(model=STATE_SAVE, events=save.COUNTED),
        )
        chain = FusedPipeline(runners | {STATE_LOAD.name: loader.answer, STATE_SAVE.name: saver.answer})
        self._lanes = LongRequestQueue(
            answer=self._neighbours.working(chain.answer),
            read=_call_of,
            model=FUSED,
            is_long=partial(encoder.is_long, times=TIMES),
            room=encoder.LONG_ROOM,
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one server batch."""
        return self._lanes.execute(requests)

    def finalize(self) -> None:
        """Wait for long calls; close the store."""
        self._lanes.finish()
        self._store.close()
        self._neighbours.close()


def _call_of(request: Any) -> PipelineRequest:
    return PipelineRequest(
        endpoint=endpoint_of(frozenset(request.requested_output_names())), inputs=tensors_of(request)
    )
