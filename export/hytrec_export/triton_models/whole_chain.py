"""`hytrec_chain` in Triton's python backend; the work is done by `hytrec_export.whole_chain`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hytrec.signature import ENCODER, RERANKER, RETRIEVER, STATE_LOAD, STATE_SAVE, TIMES, WHOLE_CHAIN
from hytrec_export.buckets import FINE_STEPS_PER_OCTAVE
from hytrec_export.layout import graph_files
from hytrec_export.loading import Loader
from hytrec_export.neighbours import Neighbours
from hytrec_export.saving import Saver
from hytrec_export.serving import FILE_NAME
from hytrec_export.triton_models import encoder, load, reranker, retriever, save
from hytrec_export.triton_models.batch import tensors_of
from hytrec_export.triton_models.lanes import Lanes
from hytrec_export.triton_models.metrics import TritonCounters
from hytrec_export.triton_models.setup import repository_of, runner_of, settings_of, starting, store_of, vocabulary_of
from hytrec_export.whole_chain import ChainCall, WholeChain, endpoint_of


class TritonPythonModel:
    """All steps, one `execute` per server batch."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open vocabulary, store and graphs."""
        settings, vocabulary = settings_of(args), vocabulary_of(args)
        graphs = graph_files(repository_of(args))
        self._neighbours = Neighbours(repository_of(args) / FILE_NAME)
        run_costs = {ENCODER: encoder.RUN_COST, RETRIEVER: retriever.RUN_COST, RERANKER: reranker.RUN_COST}
        runners = {
            model.name: runner_of(graphs[model.name], model, run_cost=cost, alone=self._neighbours.alone).answer
            for model, cost in run_costs.items()
        }
        self._store = store_of(settings)
        loader = Loader(
            settings=settings,
            vocabulary=vocabulary,
            store=self._store,
            counters=TritonCounters(model=STATE_LOAD, events=load.COUNTED),
            steps_per_octave=FINE_STEPS_PER_OCTAVE,
        )
        saver = Saver(
            settings=settings,
            vocabulary=vocabulary,
            store=self._store,
            counters=TritonCounters(model=STATE_SAVE, events=save.COUNTED),
        )
        chain = WholeChain(runners | {STATE_LOAD.name: loader.answer, STATE_SAVE.name: saver.answer})
        self._lanes = Lanes(
            answer=self._neighbours.working(chain.answer),
            read=_call_of,
            model=WHOLE_CHAIN,
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


def _call_of(request: Any) -> ChainCall:
    return ChainCall(endpoint=endpoint_of(frozenset(request.requested_output_names())), inputs=tensors_of(request))
