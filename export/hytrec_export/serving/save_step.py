"""The save step: commits the new states of a batch of requests and makes every public output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import next_name
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import (
    APPLIED,
    CALL_CONTEXT,
    CANDIDATE_ROWS,
    EVENT_COUNT,
    MODEL_FINGERPRINT,
    NEW_EVENT_COUNT,
    RAW_SCORES,
    RETURNED_KEYS,
    RETURNED_SCORES,
    SCORES,
    STATE,
    STATE_STATUS,
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
    """Commits one server batch in one transaction of the store; a result is returned only after its commit."""

    def __init__(
        self, *, settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Counters
    ) -> None:
        self._vocabulary = vocabulary
        self._store = store
        self._counters = counters
        self._fingerprint = np.frombuffer(bytes.fromhex(settings.fingerprint), np.uint8)[None]

    def run(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec.signature.STATE_SAVE` -> its outputs, one result per request, in order.

        next_memory (1, L, H, K, V) float32, next_window_items (1, W) int64, ..., call_context (1, Z) uint8, and of a
        ranking candidate_rows (1, N) int64, raw_scores (1, N) float32, padding included -> event_count (1, 1) int64,
        applied (1, 1) bool, model_fingerprint (1, 16) uint8, state_status (1, 1) int64, and scores (1, n) float32 of
        the n candidates, or recommended_keys (1, S) int64 or bytes with recommended_scores (1, S) float32, S <= top_k.
        """
        results: list[StepResult] = []
        writes: dict[int, Write] = {}
        for position, inputs in enumerate(batch):
            try:
                call_context = CallContext.unpack(inputs[CALL_CONTEXT.name][0])
                outputs = self._outputs(inputs, call_context)
                if call_context.events:
                    writes[position] = _write(inputs, call_context)
                results.append(outputs)
            except Exception as error:  # noqa: BLE001  one bad request must not fail its batch-mates
                results.append(error)
        for position, outcome in self._commit(writes).items():
            results[position] = outcome if isinstance(outcome, Exception) else results[position]
        return results

    def _outputs(self, inputs: Inputs, call_context: CallContext) -> dict[str, NDArray[Any]]:
        """Every public output of a request, valid only if its write succeeds."""
        count = call_context.event_count + call_context.events
        outputs: dict[str, NDArray[Any]] = {
            NEW_EVENT_COUNT.name: np.array([[count]], np.int64),
            APPLIED.name: np.array([[call_context.events > 0]]),
            MODEL_FINGERPRINT.name: self._fingerprint,
            STATE_STATUS.name: np.array([[call_context.status]], np.int64),
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
        except Exception as error:  # noqa: BLE001  requests without events succeed all the same
            return dict.fromkeys(writes, error)
        conflicts = sum(result.outcome is Outcome.CONFLICT for result in results)
        full = sum(result.outcome is Outcome.FULL for result in results)
        for counter, count in ((ServerCounter.CONFLICT, conflicts), (ServerCounter.STORE_FULL, full)):
            if count:
                self._counters.add(counter, count)
        return {
            position: _write_error(write, result) or result
            for (position, write), result in zip(writes.items(), results, strict=True)
        }


def _write(inputs: Inputs, call_context: CallContext) -> Write:
    state = {tensor.name: inputs[next_name(tensor.name)][0] for tensor in STATE}
    for name, values in state.items():
        _check_finite(values, f"the encoder's {name.replace('_', ' ')}")
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


def _write_error(write: Write, result: WriteResult) -> Exception | None:
    if result.outcome is Outcome.CONFLICT:
        return StateConflictError(
            f"the user's state changed while this request ran (expected event_count {write.expected_event_count}, "
            f"found {result.event_count}); retry it with the same request_id"
        )
    if result.outcome is Outcome.FULL:
        return StoreFullError(
            "the state store is full, so nothing of this request was stored; raise its size limit, "
            "or delete users with: hytrec-export state delete"
        )
    return None


def _check_finite(values: NDArray[Any], name: str) -> None:
    if not np.isfinite(values).all():
        raise GraphError(f"{name} are not finite numbers, so nothing was stored; run: hytrec-export verify REPOSITORY")
