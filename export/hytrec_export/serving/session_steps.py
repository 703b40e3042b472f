"""First and last step of a session's calls: what load and save do, without a store and without users.

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
from hytrec_export.serving.load_step import LoadStep, StepResult
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.serving.validation import Inputs
from hytrec_export.settings import ServingSettings
from hytrec_export.state.memory_store import MemoryStore
from hytrec_export.state.rules import RecordRules

_NOBODY = np.array([[b"session"]], object)


class SessionLoader:
    """Answers one server batch; whatever can be refused is refused here, before the encoder moves the state on."""

    def __init__(self, *, settings: ServingSettings, vocabulary: Vocabulary, counters: Counters) -> None:
        self._loader = LoadStep(settings=settings, vocabulary=vocabulary, store=_no_store(settings), counters=counters)

    def answer(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec_session_load` -> its outputs, one answer per request, in order."""
        answers = self._loader.answer([{**inputs, USER_ID.name: _NOBODY} for inputs in batch])
        return [_only(SESSION_LOAD, answer) for answer in answers]


class SessionSaver:
    """Answers one server batch; stores nothing."""

    def __init__(self, *, settings: ServingSettings, vocabulary: Vocabulary, counters: Counters) -> None:
        self._saver = SaveStep(settings=settings, vocabulary=vocabulary, store=_no_store(settings), counters=counters)

    def answer(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec_session_save` -> its outputs, one answer per request, in order."""
        answers: list[StepResult] = []
        for inputs in batch:
            try:
                (answer,) = self._saver.answer([_counted(inputs)])
            except Exception as error:  # noqa: BLE001  one bad request must not fail its batch-mates
                answer = error
            answers.append(_only(SESSION_SAVE, answer))
        return answers


def _counted(inputs: Inputs) -> Inputs:
    """Inputs of save: nothing to write, and the count is the encoder's."""
    call_context = CallContext.unpack(inputs[CALL_CONTEXT.name][0])
    counted = replace(call_context, event_count=int(inputs[NEXT_EVENT_COUNT.name][0, 0]), events=0)
    return {**inputs, CALL_CONTEXT.name: counted.pack()[None]}


def _only(model: Model, answer: StepResult) -> StepResult:
    if isinstance(answer, Exception):
        return answer
    return {name: answer[name] for name in model.output_names() if name in answer}


def _no_store(settings: ServingSettings) -> MemoryStore:
    return MemoryStore(rules=RecordRules(sizes=settings.sizes, fingerprint=settings.fingerprint), max_bytes=0)
