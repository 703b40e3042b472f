"""`hytrec_forget` in Triton's python backend; the work is done by `hytrec_export.serving.forget_step`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.signature import FORGET
from hytrec_export.serving.forget_step import ForgetStep
from hytrec_export.serving.triton_models.responses import respond, tensors_of
from hytrec_export.serving.triton_models.startup import settings_of, starting, store_of


class TritonPythonModel:
    """Deletes everything stored of a user."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the store."""
        settings = settings_of(args)
        self._store = store_of(settings)
        self._step = ForgetStep(settings=settings, store=self._store)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run one server batch."""
        return respond(requests, self._step.run, model=FORGET, read=tensors_of)

    def finalize(self) -> None:
        """Close the store."""
        self._store.close()
