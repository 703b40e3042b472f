"""`hytrec_state_load` in Triton's python backend; the work is done by `hytrec_export.serving.load_step`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import STATE_LOAD
from hytrec_export.serving.counters import LOAD_COUNTERS
from hytrec_export.serving.load_step import LoadStep
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.responses import respond, tensors_of
from hytrec_export.serving.triton_models.startup import settings_of, starting, store_of, vocabulary_of


class TritonPythonModel:
    """First step of every endpoint."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open vocabulary and store."""
        settings = settings_of(args)
        self._store = store_of(settings)
        self._step = LoadStep(
            settings=settings,
            vocabulary=vocabulary_of(args),
            store=self._store,
            counters=TritonCounters(model=STATE_LOAD, counters=LOAD_COUNTERS),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run one server batch."""
        return respond(requests, self._step.run, model=STATE_LOAD, read=tensors_of)

    def finalize(self) -> None:
        """Close the store."""
        self._store.close()
