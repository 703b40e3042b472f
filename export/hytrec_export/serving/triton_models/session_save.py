"""`hytrec_session_save` in Triton's python backend; the work is done by `hytrec_export.serving.session_steps`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import SESSION_SAVE
from hytrec_export.serving.session_steps import SessionSaver
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.responses import respond, tensors_of
from hytrec_export.serving.triton_models.startup import settings_of, starting, vocabulary_of


class TritonPythonModel:
    """Last step of a session's chains."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the vocabulary."""
        self._saver = SessionSaver(
            settings=settings_of(args),
            vocabulary=vocabulary_of(args),
            counters=TritonCounters(model=SESSION_SAVE, events=()),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one server batch."""
        return respond(requests, self._saver.answer, model=SESSION_SAVE, read=tensors_of)
