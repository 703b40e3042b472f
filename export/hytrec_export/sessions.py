"""First and last step of a session's calls: what load and save do, without a store and without users.

A session is a Triton sequence. Its state lives in the server's memory and ends with the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hytrec.signature import NEXT_EVENT_COUNT, SESSION_LOAD, SESSION_SAVE, TICKET, USER_ID, Model
from hytrec.vocabulary import Vocabulary
from hytrec_export.admission import Inputs
from hytrec_export.counting import Counters
from hytrec_export.loading import Answer, Loader
from hytrec_export.saving import Saver
from hytrec_export.serving import ServingSettings
from hytrec_export.state.memory_store import MemoryStore
from hytrec_export.state.rules import RecordRules
from hytrec_export.ticket import Ticket

_NOBODY = np.array([[b"session"]], object)


class SessionLoader:
    """Answers one server batch; whatever can be refused is refused here, before the encoder moves the state on."""

    def __init__(self, *, settings: ServingSettings, vocabulary: Vocabulary, counters: Counters) -> None:
        self._loader = Loader(settings=settings, vocabulary=vocabulary, store=_no_store(settings), counters=counters)

    def answer(self, batch: Sequence[Inputs]) -> list[Answer]:
        """Inputs of `hytrec_session_load` -> its outputs, one answer per request, in order."""
        answers = self._loader.answer([{**inputs, USER_ID.name: _NOBODY} for inputs in batch])
        return [_only(SESSION_LOAD, answer) for answer in answers]


class SessionSaver:
    """Answers one server batch; stores nothing."""

    def __init__(self, *, settings: ServingSettings, vocabulary: Vocabulary, counters: Counters) -> None:
        self._saver = Saver(settings=settings, vocabulary=vocabulary, store=_no_store(settings), counters=counters)

    def answer(self, batch: Sequence[Inputs]) -> list[Answer]:
        """Inputs of `hytrec_session_save` -> its outputs, one answer per request, in order."""
        answers: list[Answer] = []
        for inputs in batch:
            try:
                (answer,) = self._saver.answer([_counted(inputs)])
            except Exception as error:  # noqa: BLE001  one bad request must not fail its batch-mates
                answer = error
            answers.append(_only(SESSION_SAVE, answer))
        return answers


def _counted(inputs: Inputs) -> Inputs:
    """Inputs of save: nothing to write, and the count is the encoder's."""
    ticket = Ticket.unpack(inputs[TICKET.name][0])
    counted = replace(ticket, event_count=int(inputs[NEXT_EVENT_COUNT.name][0, 0]), events=0)
    return {**inputs, TICKET.name: counted.pack()[None]}


def _only(model: Model, answer: Answer) -> Answer:
    if isinstance(answer, Exception):
        return answer
    return {name: answer[name] for name in model.output_names() if name in answer}


def _no_store(settings: ServingSettings) -> MemoryStore:
    return MemoryStore(rules=RecordRules(sizes=settings.sizes, fingerprint=settings.fingerprint), max_bytes=0)
