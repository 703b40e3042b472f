"""`hytrec_state_save` in Triton's python backend; the work is done by `hytrec_export.serving.save_step`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import STATE_SAVE
from hytrec_export.serving.counters import SAVE_COUNTERS
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.responses import respond, tensors_of
from hytrec_export.serving.triton_models.startup import settings_of, starting, store_of, vocabulary_of


class TritonPythonModel:
    """Last step of every endpoint: commits, then responds."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open vocabulary and store."""
        settings = settings_of(args)
        self._store = store_of(settings)
        self._step = SaveStep(
            settings=settings,
            vocabulary=vocabulary_of(args),
            store=self._store,
            counters=TritonCounters(model=STATE_SAVE, counters=SAVE_COUNTERS),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run one server batch."""
        return respond(requests, self._step.run, model=STATE_SAVE, read=tensors_of)

    def finalize(self) -> None:
        """Close the store."""
        self._store.close()
