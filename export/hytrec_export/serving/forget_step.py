"""The forget step: deletes everything stored of a user."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hytrec.signature import FORGOTTEN, MODEL_FINGERPRINT
from hytrec_export.serving.load_step import StepResult, attempted
from hytrec_export.serving.validation import Inputs, validate_user_id
from hytrec_export.settings import ServingSettings
from hytrec_export.state.users import StateStore


class ForgetStep:
    """Deletes users; a deletion is committed before its result is returned."""

    def __init__(self, *, settings: ServingSettings, store: StateStore) -> None:
        self._store = store
        self._fingerprint = np.frombuffer(bytes.fromhex(settings.fingerprint), np.uint8)[None]

    def run(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec.signature.FORGET` -> its outputs, one result per request, in order.

        user_id (1, 1) bytes -> forgotten (1, 1) bool, model_fingerprint (1, 16) uint8.
        """
        return [attempted(self._forget, inputs) for inputs in batch]

    def _forget(self, inputs: Inputs) -> StepResult:
        forgotten = self._store.forget(validate_user_id(inputs))
        return {FORGOTTEN.name: np.array([[forgotten]]), MODEL_FINGERPRINT.name: self._fingerprint}
