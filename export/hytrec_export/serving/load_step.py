"""The load step: validates public inputs, maps keys to rows, pads them, and reads each user's history and state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import CALL_CONTEXT, CANDIDATE_ROWS, EXCLUDED_ROWS, NOW, UNCHECKED_EVENT_COUNT
from hytrec_export.errors import InputError
from hytrec_export.runtime.padding import pad
from hytrec_export.serving.call_context import NO_CANDIDATES, CallContext
from hytrec_export.serving.catalog_view import CatalogView, View, fixed_view
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.serving.eligibility import Eligibility
from hytrec_export.serving.lengths import Lengths
from hytrec_export.serving.loaded_request import NO_ROWS, ItemRows, LoadedRequest, map_requests
from hytrec_export.serving.stored_state import (
    EVENT_ROWS,
    Encode,
    absent_state,
    encoded,
    state_tensors,
)
from hytrec_export.serving.tuning import LONG_EVENTS, PART_EVENTS
from hytrec_export.serving.validation import Inputs, ValidatedRequest, validate_request
from hytrec_export.settings import ServingSettings
from hytrec_export.state.event_codec import encode_events
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.snapshot import SNAPSHOT
from hytrec_export.state.store import NewSnapshot, StoredUser, UserRead
from hytrec_export.state.users import StateStore

StepResult: TypeAlias = dict[str, NDArray[Any]] | Exception
"""Output tensors of a step by name, batch axis first, or the error of the request."""
Given = TypeVar("Given")

APPEND_ONLY = "append_only"
"""Input of the fused pipeline alone: the request needs no state, unless a snapshot is due."""
_COUNTED_STATUSES = {
    StateStatus.REBUILT: ServerCounter.REBUILT_STATE,
    StateStatus.TRUNCATED: ServerCounter.REBUILT_STATE,
    StateStatus.DAMAGED: ServerCounter.DAMAGED_STATE,
    StateStatus.EXPIRED: ServerCounter.EXPIRED_STATE,
}


class ReplayNeededError(Exception):
    """More events have to be encoded than a short request may: `LoadStep.run` it again with `long`."""


class LoadStep:
    """Loads one server batch with one vocabulary look-up per kind of key and one transaction of the store.

    Args:
        lengths: that tensors are padded to.
        encode: encodes all but the last `PART_EVENTS` events before the other steps run; None where the encoder's step
            takes any number of events and has a queue for long requests.
        packed: whether the call context goes on as bytes; not where all steps are in one process.
        eligibility: lists of items to choose from; none by default.
        view: of a catalog that changes, in place of `vocabulary` and `eligibility`.
    """

    def __init__(
        self,
        *,
        settings: ServingSettings,
        vocabulary: Vocabulary,
        store: StateStore,
        counters: Counters,
        lengths: Lengths,
        clock: Callable[[], float] = time.time,
        encode: Encode | None = None,
        packed: bool = True,
        eligibility: Eligibility | None = None,
        view: View | None = None,
    ) -> None:
        self._settings = settings
        self._view = view or fixed_view(vocabulary, eligibility)
        self._store = store
        self._counters = counters
        self._lengths = lengths
        self._clock = clock
        self._encode = encode
        self._packed = packed
        self._absent = absent_state(settings.sizes)
        self._part_events = min(PART_EVENTS, settings.limits.max_events)

    def run(self, batch: Sequence[Inputs], *, long: bool = False) -> list[StepResult]:
        """Inputs of `hytrec.signature.STATE_LOAD` -> its outputs, one result per request, in order.

        user_id (1, 1) bytes, item_keys (1, 3) int64 or bytes, times (1, 3) int64 -> memory (1, L, H, K, V) float32,
        window_items (1, W) int64 and the rest of the state after n events; item_rows, behavior_rows and event_times
        (1, 4) int64 of the stored events since and the new ones, padded; now_s (1, 1), excluded_rows (1, X) and
        candidate_rows (1, N) int64, padded likewise; call_context (1, Z) uint8. With `APPEND_ONLY` and no snapshot
        due it is the call_context alone.

        Args:
            long: encode whatever is needed; else a request with a long gap gets a `ReplayNeededError`.

        Raises:
            StoreUnavailableError: the store cannot be read; the whole batch fails.
        """
        clock_s, view = int(self._clock()), self._view()  # before states are read, which an addition may make useless
        validated = [self._validate(inputs, clock_s) for inputs in batch]
        reads = [
            _read(request, APPEND_ONLY in inputs)
            for request, inputs in zip(validated, batch, strict=True)
            if isinstance(request, ValidatedRequest)
        ]
        requests = [request for request in validated if isinstance(request, ValidatedRequest)]
        users = self._store.read_many(reads, max_gap=None if long else LONG_EVENTS - 1)
        loads = map_requests(requests, users, reads, view.vocabulary, window=self._settings.sizes.window)
        loaded = iter([attempted(lambda load: self._outputs(load, view, long=long), load) for load in loads])
        results = [next(loaded) if isinstance(request, ValidatedRequest) else request for request in validated]
        pairs = zip(loads, _of_valid(validated, results), strict=True)
        done = [load for load, result in pairs if not isinstance(result, ReplayNeededError)]
        self._count(done, rejected=sum(isinstance(result, InputError) for result in results))
        return results

    def _validate(self, inputs: Inputs, clock_s: int) -> ValidatedRequest | InputError:
        settings = self._settings
        try:
            return validate_request(inputs, limits=settings.limits, retrieved=settings.sizes.retrieved, clock_s=clock_s)
        except InputError as error:
            return error

    def _outputs(self, load: LoadedRequest, view: CatalogView, *, long: bool) -> StepResult:
        request, user = load.request, load.user
        if request.expected_event_count not in (UNCHECKED_EVENT_COUNT, user.event_count) and not user.replayed:
            raise InputError(
                f"expected_event_count is {request.expected_event_count}, but {user.event_count} events of the user "
                "are stored; read event_count again and send the events that are missing"
            )
        if request.replace and not user.replayed:
            return self._replacement(load, view, long=long)
        if load.read.append_only and not user.due:
            return {CALL_CONTEXT.name: self._passed_on(self._call_context(load, view, stateless=True))[None]}
        if not user.complete:
            return ReplayNeededError()
        if self._encode and long and (user.gap >= LONG_EVENTS or not self._lengths.fit(user.gap + load.events)):
            load = self._without_gap(load, self._encode, view)
        return self._tensors(load, view, long=long)

    def _replacement(self, load: LoadedRequest, view: CatalogView, *, long: bool) -> StepResult:
        """Outputs of a request whose events become the whole history: nothing of the stored one is used."""
        due = len(load.request.times) >= self._store.snapshot_every
        call_context = replace(self._call_context(load, view), due=due, first=0, kept=0, replace=True)
        if load.read.append_only and not due:
            return {CALL_CONTEXT.name: self._passed_on(call_context)[None]}
        none = StoredEvents.none(self._store.types)
        fresh = StoredUser(status=load.user.status, events=none)
        outputs = self._tensors(replace(load, user=fresh, history=load.history[:0]), view, long=long)
        return (
            outputs
            if isinstance(outputs, Exception)
            else outputs | {CALL_CONTEXT.name: self._passed_on(call_context)[None]}
        )

    def _without_gap(self, load: LoadedRequest, encode: Encode, view: CatalogView) -> LoadedRequest:
        user = load.user
        tensors = state_tensors(user, load.before, self._absent)
        tensors = encoded(tensors, load.gap, encode, part_events=self._part_events)
        state = {tensor.name: tensors[tensor.name] for tensor in SNAPSHOT}
        blind_to = view.blind_to(replace(load, item_rows=load.item_rows[:0]))
        kept = NewSnapshot(
            user_id=load.request.user_id,
            revision=user.revision,
            event_count=user.event_count,
            state=state,
            blind_to=blind_to,
        )
        if self._store.write_snapshots([kept]):
            self._counters.add(ServerCounter.FAILED_SNAPSHOT, 1)
        due = load.events >= self._store.snapshot_every
        return replace(load, user=replace(user, base=user.event_count, state=state, due=due, blind=bool(blind_to)))

    def _tensors(self, load: LoadedRequest, view: CatalogView, *, long: bool) -> StepResult:
        lengths = self._lengths
        state = state_tensors(load.user, load.before, self._absent)
        ahead = load.ahead
        if self._encode and len(ahead) > self._part_events:
            if not long:
                return ReplayNeededError()
            first = (len(ahead) - 1) // self._part_events * self._part_events
            state = encoded(state, ahead[:first], self._encode, part_events=self._part_events)
            ahead = ahead[first:]
        excluded, falls_back = self._left_out(load, view)
        steps = lengths.events(len(ahead))
        rows = [pad(column, steps) for column in ahead.columns()]
        outputs = state | {
            **dict(zip(EVENT_ROWS, rows, strict=True)),
            NOW.name: np.array([load.request.now], np.int64),
            EXCLUDED_ROWS.name: pad(excluded, lengths.excluded(len(excluded))),
            CANDIDATE_ROWS.name: pad(load.candidate_rows, lengths.candidates(len(load.candidate_rows))),
            CALL_CONTEXT.name: self._passed_on(self._call_context(load, view, fallback=falls_back)),
        }
        return {name: values[None] for name, values in outputs.items()}

    def _call_context(
        self, load: LoadedRequest, view: CatalogView, *, stateless: bool = False, fallback: bool = False
    ) -> CallContext:
        request, user, events = load.request, load.user, load.events
        given = None
        if events:
            given = StoredEvents.given(request.item_keys, request.behavior_keys, request.times, self._store.types)
        return CallContext(
            user_id=request.user_id,
            request_id=request.request_id,
            revision=user.revision,
            event_count=user.event_count,
            first=user.first,
            kept=user.kept,
            events=events,
            status=user.status,
            due=user.due,
            fallback=fallback,
            top_k=request.top_k,
            candidate_count=NO_CANDIDATES if request.candidate_keys is None else len(load.candidate_rows),
            give_up_at_ns=request.give_up_at_ns,
            last_item_row=view.vocabulary.last_item_row,
            blind_to=b"" if stateless else view.blind_to(load),
            new_events=encode_events(given) if given and self._packed else b"",
            given_events=None if self._packed else given,
        )

    def _passed_on(self, call_context: CallContext) -> NDArray[Any]:
        return call_context.pack() if self._packed else call_context.handed_over()

    def _left_out(self, load: LoadedRequest, view: CatalogView) -> tuple[ItemRows, bool]:
        """Rows not to return, and whether these leave the fallback list."""
        eligibility = view.eligibility
        excluded, hidden = self._excluded(load), eligibility.hidden_by(load.request.eligible)
        both = np.concatenate([excluded, hidden]) if len(hidden) else excluded
        maximum = self._lengths.max_excluded
        if maximum is not None and len(both) > maximum:
            raise InputError(
                f"eligible and excluded_keys leave out {len(both)} items and this build can leave out {maximum}; "
                "build with a larger --max-excluded, or with --execution fused"
            )
        has_events = len(load.history) or load.events or load.user.event_count
        if has_events or not len(eligibility.fallback):
            return both, False
        all_but_fallback = eligibility.fallback_for(both)
        return (both, False) if not len(all_but_fallback) else (all_but_fallback, True)

    def _excluded(self, load: LoadedRequest) -> ItemRows:
        """Rows of known items not to return; with exclude_recent also those of the window after this request."""
        excluded = load.excluded_rows
        if not (load.request.exclude_recent or excluded.size):
            return NO_ROWS
        if load.request.exclude_recent:
            recent = np.concatenate([load.history.items, load.item_rows[: load.events]])[-self._settings.sizes.window :]
            excluded = np.concatenate([excluded, recent])
        known: ItemRows = np.unique(excluded[(excluded > 0) & (excluded <= self._settings.item_rows)])
        return known

    def _count(self, loads: Sequence[LoadedRequest], *, rejected: int) -> None:
        unknown = self._settings.item_rows + 1
        items = [rows for load in loads for rows in (load.item_rows, load.candidate_rows) if len(rows)]
        counts = {
            ServerCounter.REJECTED_REQUEST: rejected,
            ServerCounter.UNKNOWN_ITEM: sum(np.count_nonzero(rows == unknown) for rows in items),
            ServerCounter.UNKNOWN_BEHAVIOR: sum(
                len(load.behavior_rows) - np.count_nonzero(load.behavior_rows) for load in loads
            ),
            ServerCounter.REPLAYED_REQUEST: sum(load.user.replayed for load in loads),
        }
        for counter, count in counts.items():
            if count:
                self._counters.add(counter, count)
        for status, count in Counter(load.user.status for load in loads).items():
            if status in _COUNTED_STATUSES:
                self._counters.add(_COUNTED_STATUSES[status], count)


def _read(request: ValidatedRequest, append_only: bool) -> UserRead:  # noqa: FBT001 - private
    return UserRead(
        user_id=request.user_id, request_id=request.request_id, events=len(request.times), append_only=append_only
    )


def _of_valid(validated: Sequence[ValidatedRequest | InputError], results: Sequence[StepResult]) -> list[StepResult]:
    pairs = zip(validated, results, strict=True)
    return [result for request, result in pairs if isinstance(request, ValidatedRequest)]


def attempted(work: Callable[[Given], StepResult], given: Given) -> StepResult:
    """The result of one request, or its error: one bad request must not fail its batch-mates."""
    try:
        return work(given)
    except Exception as error:  # noqa: BLE001
        return error
