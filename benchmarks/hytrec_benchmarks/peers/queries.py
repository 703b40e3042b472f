"""A peer's side of a request: histories kept in memory, one query per request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.data.histories import History, Int64Array, padded_rows
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import APPLIED, MODEL_FINGERPRINT, NEW_EVENT_COUNT, SCORES, STATE_STATUS
from hytrec_export.errors import InputError
from hytrec_export.runtime.batching import plan_groups
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.validation import Inputs, ValidatedRequest, validate_request
from hytrec_export.settings import ServingSettings

RUN_OVERHEAD = 64
"""What one more run costs, in events."""
MAX_ELEMENTS = 4_096
"""Most events of one run; longer histories run alone, for they gain nothing together."""
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


Scores = NDArray[np.float32]
Scorer = Callable[[Sequence[Query]], list[Scores]]
"""Scores (N,) of every query's candidates from its whole history, in order."""


def score_in_groups(run: Callable[[list[Query], int, Int64Array], Scores], queries: Sequence[Query]) -> list[Scores]:
    """Score queries in as few runs as pay: those with histories of about one length together.

    Args:
        run: B queries, the length to pad their histories to, and candidates (B, N), padded -> scores (B, N).
    """
    scores: dict[int, Scores] = {}
    lengths = [max(1, len(query.history)) for query in queries]
    for group in plan_groups(lengths, run_overhead=RUN_OVERHEAD, max_elements=MAX_ELEMENTS):
        batch = [queries[member] for member in group.members]
        found = run(batch, group.length, padded_rows([query.candidates for query in batch]))
        for member, query, row in zip(group.members, batch, found, strict=True):
            scores[member] = row[: query.candidates.size]
    return [scores[position] for position in range(len(queries))]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Keeps histories and has queries scored."""

    settings: ServingSettings
    vocabulary: Vocabulary
    scorer: Scorer
    _histories: dict[bytes, History] = field(default_factory=dict)

    def answer(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Public inputs -> the public outputs of `hytrec_append`, and scores where candidates are given."""
        answers: list[StepResult] = []
        queries: dict[int, Query] = {}
        clock_s = int(time.time())
        for position, inputs in enumerate(batch):
            try:
                limits, retrieved = self.settings.limits, self.settings.sizes.retrieved
                call = validate_request(inputs, limits=limits, retrieved=retrieved, clock_s=clock_s)
            except InputError as error:
                answers.append(error)
                continue
            history = self._append(call)
            answers.append(self._receipt(call, len(history)))
            if call.candidate_keys is not None:
                candidates = self.vocabulary.item_rows(call.candidate_keys)
                queries[position] = Query(history=history, candidates=candidates, now_s=call.now)
        for position, scores in zip(queries, self.scorer(list(queries.values())), strict=True):
            answer = answers[position]
            answers[position] = answer if isinstance(answer, Exception) else answer | {SCORES.name: scores[None]}
        return answers

    def _append(self, call: ValidatedRequest) -> History:
        before = NO_EVENTS if call.replace else self._histories.get(call.user_id, NO_EVENTS)
        items = self.vocabulary.item_rows(call.item_keys)
        behaviors = self.vocabulary.behavior_rows(call.behavior_keys) if call.behavior_keys.size else items * 0
        fields = {"item_rows": items, "behavior_rows": behaviors, "times": call.times}
        history = History(**{name: np.concatenate([getattr(before, name), new]) for name, new in fields.items()})
        self._histories[call.user_id] = history
        return history

    def _receipt(self, call: ValidatedRequest, events: int) -> dict[str, NDArray[Any]]:
        status = StateStatus.FOUND if events > len(call.times) else StateStatus.NEW
        return {
            NEW_EVENT_COUNT.name: np.array([[events]], np.int64),
            APPLIED.name: np.array([[len(call.times) > 0]]),
            MODEL_FINGERPRINT.name: np.frombuffer(bytes.fromhex(self.settings.fingerprint), np.uint8)[None],
            STATE_STATUS.name: np.array([[status]], np.int64),
        }
