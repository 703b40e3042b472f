"""`hytrec_session_save` in Triton's python backend; the work is done by `hytrec_export.serving.session_steps`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import SESSION_SAVE
from hytrec_export.serving.session_steps import SessionSaveStep
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.responses import respond, tensors_of
from hytrec_export.serving.triton_models.startup import settings_of, starting, vocabulary_of


class TritonPythonModel:
    """Last step of a session's endpoints."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the vocabulary."""
        self._step = SessionSaveStep(
            settings=settings_of(args),
            vocabulary=vocabulary_of(args),
            counters=TritonCounters(model=SESSION_SAVE, counters=()),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run one server batch."""
        return respond(requests, self._step.run, model=SESSION_SAVE, read=tensors_of)
