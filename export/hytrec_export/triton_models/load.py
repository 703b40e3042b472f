"""`hytrec_state_load` in Triton's python backend; the work is done by `hytrec_export.loading`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import STATE_LOAD
from hytrec_export.counting import Event
from hytrec_export.loading import Loader
from hytrec_export.triton_models.batch import respond, tensors_of
from hytrec_export.triton_models.metrics import TritonCounters
from hytrec_export.triton_models.setup import settings_of, starting, store_of, vocabulary_of

COUNTED = (
    Event.UNKNOWN_ITEM,
    Event.UNKNOWN_BEHAVIOR,
    Event.FOREIGN_STATE,
    Event.CORRUPT_STATE,
    Event.EXPIRED_STATE,
    Event.REPLAYED_CALL,
    Event.REFUSED_CALL,
)


class TritonPythonModel:
    """First step of every chain."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open vocabulary and store."""
        settings = settings_of(args)
        self._store = store_of(settings)
        self._loader = Loader(
            settings=settings,
            vocabulary=vocabulary_of(args),
            store=self._store,
            counters=TritonCounters(model=STATE_LOAD, events=COUNTED),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one server batch."""
        return respond(requests, self._loader.answer, model=STATE_LOAD, read=tensors_of)

    def finalize(self) -> None:
        """Close the store."""
        self._store.close()
