"""A peer's side of a request: histories kept in memory, one query per request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.data.histories import History, Int64Array
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import APPLIED, MODEL_FINGERPRINT, NEW_EVENT_COUNT, SCORES, STATE_STATUS
from hytrec_export.errors import InputError
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.validation import Inputs, ValidatedRequest, validate_request
from hytrec_export.settings import ServingSettings

NO_EVENTS = History(item_rows=np.zeros(0, np.int64), behavior_rows=np.zeros(0, np.int64), times=np.zeros(0, np.int64))


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """What one request asks for.

    Args:
        history: all events of the user, those of the request included.
        candidates: (N,) rows.
        now_s: unix seconds.
    """

    history: History
    candidates: Int64Array
    now_s: int


class Scorer(Protocol):
    """Scores the candidates of queries from whole histories."""

    def score(self, queries: Sequence[Query]) -> list[NDArray[np.float32]]:
        """Scores (N,) of every query's candidates, in order."""
        ...


class Peer:
    """Keeps histories and has queries scored."""

    def __init__(self, *, settings: ServingSettings, vocabulary: Vocabulary, scorer: Scorer) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._scorer = scorer
        self._histories: dict[bytes, History] = {}

    def answer(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Public inputs -> the public outputs of `hytrec_append`, and scores where candidates are given."""
        answers: list[StepResult] = []
        queries: dict[int, Query] = {}
        clock_s = int(time.time())
        for position, inputs in enumerate(batch):
            try:
                call = validate_request(
                    inputs,
                    limits=self._settings.limits,
                    retrieved=self._settings.sizes.retrieved,
                    clock_s=clock_s,
                )
            except InputError as error:
                answers.append(error)
                continue
            history = self._append(call)
            answers.append(self._receipt(call, len(history)))
            if call.candidate_keys is not None:
                candidates = self._vocabulary.item_rows(call.candidate_keys)
                queries[position] = Query(history=history, candidates=candidates, now_s=call.now)
        for position, scores in zip(queries, self._scorer.score(list(queries.values())), strict=True):
            answers[position] = _scored(answers[position], scores)
        return answers

    def _append(self, call: ValidatedRequest) -> History:
        before = self._histories.get(call.user_id, NO_EVENTS)
        items = self._vocabulary.item_rows(call.item_keys)
        behaviors = self._vocabulary.behavior_rows(call.behavior_keys) if call.behavior_keys.size else items * 0
        fields = {"item_rows": items, "behavior_rows": behaviors, "times": call.times}
        history = History(**{name: np.concatenate([getattr(before, name), new]) for name, new in fields.items()})
        self._histories[call.user_id] = history
        return history

    def _receipt(self, call: ValidatedRequest, events: int) -> dict[str, NDArray[Any]]:
        status = StateStatus.FOUND if events > len(call.times) else StateStatus.NEW
        return {
            NEW_EVENT_COUNT.name: np.array([[events]], np.int64),
            APPLIED.name: np.array([[len(call.times) > 0]]),
            MODEL_FINGERPRINT.name: np.frombuffer(bytes.fromhex(self._settings.fingerprint), np.uint8)[None],
            STATE_STATUS.name: np.array([[status]], np.int64),
        }


def _scored(answer: StepResult, scores: NDArray[np.float32]) -> StepResult:
    return answer if isinstance(answer, Exception) else answer | {SCORES.name: scores[None]}
