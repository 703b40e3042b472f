"""The save step: commits the new states of a batch of requests and makes every public output."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import next_name
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import (
    CALL_CONTEXT,
    CANDIDATE_ROWS,
    EVENT_COUNT,
    MEMORY,
    RAW_SCORES,
    RETURNED_KEYS,
    RETURNED_SCORES,
    SCORES,
)
from hytrec_export.errors import GraphError, InputError, OverloadError, StateConflictError, StoreFullError
from hytrec_export.runtime.top_k import best_items
from hytrec_export.serving.call_context import NO_CANDIDATES, CallContext
from hytrec_export.serving.catalog_view import View, fixed_view
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.serving.eligibility import Eligibility
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.receipt import Receipts
from hytrec_export.serving.stored_state import check_encoded, check_finite
from hytrec_export.serving.validation import Inputs
from hytrec_export.settings import ServingSettings
from hytrec_export.state.applied_requests import CLIENT_SLOT_LIFE_S, MAX_CLIENT_SLOTS
from hytrec_export.state.event_codec import DamagedEventsError, decode_events
from hytrec_export.state.snapshot import SNAPSHOT
from hytrec_export.state.store import NewSnapshot, Outcome, UserWrite, WriteResult
from hytrec_export.state.users import StateStore


class SaveStep:
    """Commits one server batch in one transaction of the store; a result is returned only after its commit."""

    def __init__(
        self,
        *,
        settings: ServingSettings,
        vocabulary: Vocabulary,
        store: StateStore,
        counters: Counters,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        eligibility: Eligibility | None = None,
        view: View | None = None,
    ) -> None:
        self._view = view or fixed_view(vocabulary, eligibility)
        self._store = store
        self._counters = counters
        self._clock_ns = clock_ns
        self._receipts = Receipts(settings.fingerprint)

    def run(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec.signature.STATE_SAVE` -> its outputs, one result per request, in order.

        next_memory (1, L, H, K, V) float32, next_window_items (1, W) int64, ..., call_context (1, Z) uint8, and of a
        ranking candidate_rows (1, N) int64, raw_scores (1, N) float32, padding included -> event_count (1, 1) int64,
        applied (1, 1) bool, model_fingerprint (1, 16) uint8, state_status (1, 1) int64, and scores (1, n) float32 of
        the n candidates, or recommended_keys (1, S) int64 or bytes with recommended_scores (1, S) float32, S <= top_k.
        The next_ tensors may be missing where the encoder was not run.
        """
        results: list[StepResult] = []
        contexts: dict[int, CallContext] = {}
        writes: dict[int, UserWrite] = {}
        for position, inputs in enumerate(batch):
            try:
                call_context = CallContext.of(inputs[CALL_CONTEXT.name][0])
                self._check_time(call_context)
                outputs = self._outputs(inputs, call_context)
                _check_state(inputs, call_context)
                if call_context.events:
                    writes[position] = self._write(call_context)
                contexts[position] = call_context
                results.append(outputs)
            except Exception as error:  # noqa: BLE001  one bad request must not fail its batch-mates
                results.append(error)
        revisions = {position: context.revision for position, context in contexts.items()}
        for position, outcome in self._commit(writes).items():
            if isinstance(outcome, Exception):
                results[position] = outcome
                del revisions[position]
            else:
                revisions[position] = outcome.revision
        self._keep(
            [
                (_snapshot(batch[position], contexts[position], revision), contexts[position].due)
                for position, revision in revisions.items()
                if next_name(MEMORY.name) in batch[position] and contexts[position].next_event_count
            ]
        )
        return results

    def _check_time(self, call_context: CallContext) -> None:
        """Raises: OverloadError: the client has given up meanwhile; nothing may be stored."""
        late_ns = self._clock_ns() - call_context.give_up_at_ns
        if late_ns > 0:
            self._counters.add(ServerCounter.STALE, 1)
            raise OverloadError(
                f"the request was ready {late_ns / 1e6:.0f} ms after its client gave up, and was not applied; retry it "
                "with the same request_id and a larger timeout_s"
            )

    def _write(self, call_context: CallContext) -> UserWrite:
        try:
            events = call_context.given_events or decode_events(call_context.new_events, self._store.types)
        except DamagedEventsError:
            raise InputError("call_context holds no events; use an ensemble instead") from None
        return UserWrite(
            user_id=call_context.user_id,
            request_id=call_context.request_id,
            revision=call_context.revision,
            event_count=call_context.event_count,
            events=events,
            first=call_context.first,
            replace=call_context.replace,
        )

    def _keep(self, states: Sequence[tuple[NewSnapshot, bool]]) -> None:
        """Keep states of histories that are committed, those that are due in the store.

        A failure costs time later, and no request fails for it.
        """
        due = [state for state, is_due in states if is_due]
        failed = self._store.write_snapshots(due) if due else 0
        self._store.remember(
            [replace(state, kept=state.event_count) if is_due and not failed else state for state, is_due in states]
        )
        if failed:
            self._counters.add(ServerCounter.FAILED_SNAPSHOT, failed)

    def _outputs(self, inputs: Inputs, call_context: CallContext) -> dict[str, NDArray[Any]]:
        """Every public output of a request, valid only if its write succeeds."""
        outputs = self._receipts.of(
            call_context.next_event_count, applied=call_context.events > 0, status=call_context.status
        )
        raw_scores = inputs.get(RAW_SCORES.name)
        if raw_scores is None:
            return outputs
        if call_context.candidate_count != NO_CANDIDATES:
            scores = raw_scores[:, : call_context.candidate_count]
            check_finite(scores, "the reranker's scores")
            return outputs | {SCORES.name: scores}
        view, retrieved = self._view(), inputs[CANDIDATE_ROWS.name][0]
        retrieved = np.where(retrieved > call_context.last_item_row, 0, retrieved)
        top_k = len(retrieved) if call_context.fallback else call_context.top_k
        rows, scores = best_items(retrieved, raw_scores[0], top_k)
        if call_context.fallback:
            order = view.eligibility.in_fallback_order(rows)[: call_context.top_k]
            rows, scores = rows[order], scores[order]
        keys = view.vocabulary.keys_of(rows)
        keys = keys.astype(object) if keys.dtype.kind == "S" else keys
        return outputs | {RETURNED_KEYS.name: keys[None], RETURNED_SCORES.name: scores[None]}

    def _commit(self, writes: dict[int, UserWrite]) -> dict[int, WriteResult | Exception]:
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


def _check_state(inputs: Inputs, call_context: CallContext) -> None:
    """Raises: GraphError: the encoder made a state that cannot be; nothing may be stored."""
    counted = inputs.get(next_name(EVENT_COUNT.name))
    if counted is None or not (call_context.events or call_context.due):
        return
    check_encoded({tensor.name: inputs[next_name(tensor.name)] for tensor in SNAPSHOT})
    found, expected = int(counted[0, 0]), call_context.next_event_count
    if found != expected:
        raise GraphError(f"the encoder counted {found} events instead of {expected}; build the repository again")


def _snapshot(inputs: Inputs, call_context: CallContext, revision: bytes) -> NewSnapshot:
    return NewSnapshot(
        user_id=call_context.user_id,
        revision=revision,
        event_count=call_context.next_event_count,
        state={tensor.name: inputs[next_name(tensor.name)][0] for tensor in SNAPSHOT},
        kept=call_context.kept,
        blind_to=call_context.blind_to,
    )


def _write_error(write: UserWrite, result: WriteResult) -> Exception | None:
    if result.outcome is Outcome.CONFLICT:
        return StateConflictError(
            f"the user's state changed while this request ran (expected event_count {write.event_count}, "
            f"found {result.event_count}); retry it with the same request_id"
        )
    if result.outcome is Outcome.FULL:
        return StoreFullError(
            "the state store is full, so nothing of this request was stored; raise its size limit, "
            "or delete users with: hytrec-export state delete"
        )
    if result.outcome is Outcome.CROWDED:
        return StateConflictError(
            f"{MAX_CLIENT_SLOTS} client slots wrote to this user within {CLIENT_SLOT_LIFE_S // 60} minutes, "
            "and no more are remembered; write through fewer clients at a time, or retry later with the same request_id"
        )
    return None
