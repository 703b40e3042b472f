"""`hytrec_session_load` in Triton's python backend; the work is done by `hytrec_export.sessions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import SESSION_LOAD
from hytrec_export.counting import Event
from hytrec_export.sessions import SessionLoader
from hytrec_export.triton_models.batch import respond, tensors_of
from hytrec_export.triton_models.metrics import TritonCounters
from hytrec_export.triton_models.setup import settings_of, starting, vocabulary_of

COUNTED = (Event.UNKNOWN_ITEM, Event.UNKNOWN_BEHAVIOR, Event.REFUSED_CALL)


class TritonPythonModel:
    """First step of a session's chains."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the vocabulary."""
        self._loader = SessionLoader(
            settings=settings_of(args),
            vocabulary=vocabulary_of(args),
            counters=TritonCounters(model=SESSION_LOAD, events=COUNTED),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one server batch."""
        return respond(requests, self._loader.answer, model=SESSION_LOAD, read=tensors_of)
