"""The save step: writes the new states of a batch of calls and makes every public output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import (
    APPLIED,
    CALL_CONTEXT,
    CANDIDATE_ROWS,
    EVENT_COUNT,
    LONG_VECTOR,
    MEMORY,
    MODEL_FINGERPRINT,
    NEW_EVENT_COUNT,
    RAW_SCORES,
    RETURNED_KEYS,
    RETURNED_SCORES,
    SCORES,
    STATE,
    STATE_STATUS,
    next_name,
)
from hytrec_export.errors import GraphError, StateConflictError, StoreFullError
from hytrec_export.runtime.top_k import best_items
from hytrec_export.serving.call_context import NO_CANDIDATES, CallContext
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.validation import Inputs
from hytrec_export.settings import ServingSettings
from hytrec_export.state.store import Outcome, StateStore, Write, WriteResult


class SaveStep:
    """Answers one server batch with one transaction of the store; nobody is told of a write before its commit."""

    def __init__(
        self, *, settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Counters
    ) -> None:
        self._vocabulary = vocabulary
        self._store = store
        self._counters = counters
        self._fingerprint = np.array([[settings.fingerprint.encode()]], object)

    def answer(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec_state_save` -> its outputs, one answer per request, in order."""
        answers: list[StepResult] = []
        writes: dict[int, Write] = {}
        for position, inputs in enumerate(batch):
            try:
                call_context = CallContext.unpack(inputs[CALL_CONTEXT.name][0])
                outputs = self._outputs(inputs, call_context)
                if call_context.events:
                    writes[position] = _write(inputs, call_context)
                answers.append(outputs)
            except Exception as error:  # noqa: BLE001  one bad request must not fail its batch-mates
                answers.append(error)
        for position, outcome in self._commit(writes).items():
            answers[position] = outcome if isinstance(outcome, Exception) else answers[position]
        return answers

    def _outputs(self, inputs: Inputs, call_context: CallContext) -> dict[str, NDArray[Any]]:
        """Every public output of a call, on condition that its write succeeds."""
        count = call_context.event_count + call_context.events
        outputs: dict[str, NDArray[Any]] = {
            NEW_EVENT_COUNT.name: np.array([[count]], np.int64),
            APPLIED.name: np.array([[call_context.events > 0]]),
            MODEL_FINGERPRINT.name: self._fingerprint,
            STATE_STATUS.name: np.array([[call_context.status.value.encode()]], object),
        }
        raw_scores = inputs.get(RAW_SCORES.name)
        if raw_scores is None:
            return outputs
        if call_context.candidate_count != NO_CANDIDATES:
            scores = raw_scores[:, : call_context.candidate_count]
            _check_finite(scores, "the reranker's scores")
            return outputs | {SCORES.name: scores}
        rows, scores = best_items(inputs[CANDIDATE_ROWS.name][0], raw_scores[0], call_context.top_k)
        keys = self._vocabulary.keys_of(rows)
        keys = keys.astype(object) if keys.dtype.kind == "S" else keys
        return outputs | {RETURNED_KEYS.name: keys[None], RETURNED_SCORES.name: scores[None]}

    def _commit(self, writes: dict[int, Write]) -> dict[int, WriteResult | Exception]:
        """Outcome of every write by position."""
        if not writes:
            return {}
        try:
            results = self._store.write_many(list(writes.values()))
        except Exception as error:  # noqa: BLE001  calls without events are answered all the same
            return dict.fromkeys(writes, error)
        conflicts = sum(result.outcome is Outcome.CONFLICT for result in results)
        full = sum(result.outcome is Outcome.FULL for result in results)
        for event, count in ((ServerCounter.CONFLICT, conflicts), (ServerCounter.STORE_FULL, full)):
            if count:
                self._counters.add(event, count)
        return {
            position: _refusal(write, result) or result
            for (position, write), result in zip(writes.items(), results, strict=True)
        }


def _write(inputs: Inputs, call_context: CallContext) -> Write:
    state = {tensor.name: inputs[next_name(tensor.name)][0] for tensor in STATE}
    _check_finite(state[MEMORY.name], "the encoder's memory")
    _check_finite(state[LONG_VECTOR.name], "the encoder's long vector")
    found, expected = int(state[EVENT_COUNT.name][0]), call_context.event_count + call_context.events
    if found != expected:
        raise GraphError(f"the encoder counted {found} events instead of {expected}; build the repository again")
    return Write(
        user_id=call_context.user_id,
        request_id=call_context.request_id,
        expected_revision=call_context.revision,
        expected_event_count=call_context.event_count,
        state=state,
    )


def _refusal(write: Write, result: WriteResult) -> Exception | None:
    if result.outcome is Outcome.CONFLICT:
        return StateConflictError(
            f"the user's state changed while this call ran (expected event_count {write.expected_event_count}, "
            f"found {result.event_count}); retry the call"
        )
    if result.outcome is Outcome.FULL:
        return StoreFullError(
            "the state store is full, so nothing of this call was stored; raise its size limit, "
            "or delete users with: hytrec-export state delete"
        )
    return None


def _check_finite(values: NDArray[Any], name: str) -> None:
    if not np.isfinite(values).all():
        raise GraphError(f"{name} are not finite numbers, so nothing was stored; run: hytrec-export verify REPOSITORY")
