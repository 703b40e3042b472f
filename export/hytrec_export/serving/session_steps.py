"""First and last step of a session's requests: what load and save do, without a store and without users.

A session is a Triton sequence. Its state lives in the server's memory and ends with the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hytrec.contract import Model
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import CALL_CONTEXT, NEXT_EVENT_COUNT, SESSION_LOAD, SESSION_SAVE, USER_ID
from hytrec_export.serving.call_context import CallContext
from hytrec_export.serving.counters import Counters
from hytrec_export.serving.lengths import Lengths
from hytrec_export.serving.load_step import LoadStep, StepResult, attempted
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.serving.store_model import store_model
from hytrec_export.serving.validation import Inputs
from hytrec_export.settings import ServingSettings
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import MIN_BYTES, StoreOptions
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

_NO_USER = np.array([[b"session"]], object)


class SessionLoadStep:
    """Validates and maps; whatever can be rejected is rejected here, before the encoder advances the state."""

    def __init__(self, *, settings: ServingSettings, vocabulary: Vocabulary, counters: Counters) -> None:
        self._load = LoadStep(
            settings=settings,
            vocabulary=vocabulary,
            store=_no_store(settings),
            counters=counters,
            lengths=Lengths.of(settings),
        )

    def run(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec.signature.SESSION_LOAD` -> its outputs, one result per request, in order.

        item_keys (1, 3) int64 or bytes, times (1, 3) int64 -> item_rows, behavior_rows, event_times (1, 4) int64,
        now_s (1, 1) int64, excluded_rows (1, X) and candidate_rows (1, N) int64, call_context (1, Z) uint8: as
        `LoadStep.run`, without a state.
        """
        results = self._load.run([{**inputs, USER_ID.name: _NO_USER} for inputs in batch])
        return [_only(SESSION_LOAD, result) for result in results]


class SessionSaveStep:
    """Makes every public output; stores nothing."""

    def __init__(self, *, settings: ServingSettings, vocabulary: Vocabulary, counters: Counters) -> None:
        self._save = SaveStep(settings=settings, vocabulary=vocabulary, store=_no_store(settings), counters=counters)

    def run(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec.signature.SESSION_SAVE` -> its outputs, one result per request, in order.

        next_event_count (1, 1) int64, call_context (1, Z) uint8, and of a ranking candidate_rows (1, N) int64,
        raw_scores (1, N) float32 -> event_count (1, 1) int64, model_fingerprint (1, 16) uint8, and scores or
        recommended_keys and recommended_scores as `SaveStep.run`.
        """
        return [_only(SESSION_SAVE, attempted(self._result, inputs)) for inputs in batch]

    def _result(self, inputs: Inputs) -> StepResult:
        return self._save.run([_counted(inputs)])[0]


def _counted(inputs: Inputs) -> Inputs:
    """Inputs of save: nothing to write, and the encoder's event count."""
    call_context = CallContext.unpack(inputs[CALL_CONTEXT.name][0])
    counted = replace(call_context, event_count=int(inputs[NEXT_EVENT_COUNT.name][0, 0]), events=0, due=False)
    return {**inputs, CALL_CONTEXT.name: counted.pack()[None]}


def _only(model: Model, result: StepResult) -> StepResult:
    if isinstance(result, Exception):
        return result
    return {name: result[name] for name in model.output_names() if name in result}


def _no_store(settings: ServingSettings) -> StateStore:
    """A store that stays empty."""
    options = StoreOptions(url=StoreUrl.parse("memory:"), max_bytes=MIN_BYTES)
    return open_store(options, store_model(settings))
