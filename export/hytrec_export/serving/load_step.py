"""The load step: validates public inputs, maps keys to rows, pads them, and reads each user's state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import DType, StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import (
    BEHAVIOR_ROWS,
    CALL_CONTEXT,
    CANDIDATE_ROWS,
    EXCLUDED_ROWS,
    ITEM_ROWS,
    NOW,
    ROW_TIMES,
    STATE,
    UNCHECKED_EVENT_COUNT,
    WINDOW_ITEMS,
)
from hytrec_export.errors import InputError
from hytrec_export.runtime.padding import STEPS_PER_OCTAVE, bucket_length, pad
from hytrec_export.serving.call_context import NO_CANDIDATES, CallContext
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.serving.validation import Inputs, Keys, ValidatedRequest, validate_request
from hytrec_export.settings import ServingSettings
from hytrec_export.state.store import StateStore, StoredUser

StepResult: TypeAlias = dict[str, NDArray[Any]] | Exception
"""Output tensors of a step by name, batch axis first, or the error of the request."""
ItemRows: TypeAlias = NDArray[np.int64]
Given = TypeVar("Given")

_NO_ROWS: ItemRows = np.empty(0, np.int64)
_COUNTED_STATUSES = {
    StateStatus.MODEL_MISMATCH: ServerCounter.MODEL_MISMATCH,
    StateStatus.DAMAGED: ServerCounter.DAMAGED_STATE,
    StateStatus.EXPIRED: ServerCounter.EXPIRED_STATE,
}


class LoadStep:
    """Loads one server batch with one vocabulary look-up per kind of key and one transaction of the store.

    Args:
        steps_per_octave: of the lengths that tensors are padded to, see `bucket_length`.
    """

    def __init__(
        self,
        *,
        settings: ServingSettings,
        vocabulary: Vocabulary,
        store: StateStore,
        counters: Counters,
        clock: Callable[[], float] = time.time,
        steps_per_octave: int = STEPS_PER_OCTAVE,
    ) -> None:
        self._bucket_length = partial(bucket_length, steps_per_octave=steps_per_octave)
        self._settings = settings
        self._vocabulary = vocabulary
        self._store = store
        self._counters = counters
        self._clock = clock
        self._max_excluded = settings.limits.max_excluded + settings.sizes.window
        self._absent = {
            tensor.name: np.zeros(
                settings.sizes.shape(tensor), np.float32 if tensor.dtype is DType.FLOAT32 else np.int64
            )
            for tensor in STATE
        }

    def run(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec.signature.STATE_LOAD` -> its outputs, one result per request, in order.

        user_id (1, 1) bytes, item_keys (1, 3) int64 or bytes, times (1, 3) int64 -> memory (1, L, H, K, V) float32,
        window_items (1, W) int64 and the rest of the state, all zeros for a new user; item_rows, behavior_rows and
        event_times (1, 4) int64, padded to a bucket length; now_s (1, 1), excluded_rows (1, X) and candidate_rows
        (1, N) int64, padded likewise; call_context (1, Z) uint8.

        Raises:
            StoreUnavailableError: the store cannot be read; the whole batch fails.
        """
        clock_s = int(self._clock())
        validated = [self._validate(inputs, clock_s) for inputs in batch]
        requests = [request for request in validated if isinstance(request, ValidatedRequest)]
        users = self._store.read_many([request.user_id for request in requests]) if requests else []
        loads = [_Load(*parts) for parts in zip(requests, users, self._map_keys(requests), strict=True)]
        loaded = iter([attempted(self._outputs, load) for load in loads])
        results = [next(loaded) if isinstance(request, ValidatedRequest) else request for request in validated]
        self._count(loads, rejected=sum(isinstance(result, InputError) for result in results))
        return results

    def _validate(self, inputs: Inputs, clock_s: int) -> ValidatedRequest | InputError:
        settings = self._settings
        try:
            return validate_request(inputs, limits=settings.limits, retrieved=settings.sizes.retrieved, clock_s=clock_s)
        except InputError as error:
            return error

    def _map_keys(self, requests: Sequence[ValidatedRequest]) -> list[_Rows]:
        """Rows of every request, each kind of key mapped in one look-up."""
        items, behaviors = self._vocabulary.item_rows, self._vocabulary.behavior_rows
        columns = (
            _mapped(items, [request.item_keys for request in requests]),
            _mapped(behaviors, [request.behavior_keys for request in requests]),
            _mapped(items, [_NO_ROWS if keys is None else keys for keys in (r.candidate_keys for r in requests)]),
            _mapped(items, [request.excluded_keys for request in requests]),
        )
        return [_Rows(*rows) for rows in zip(*columns, strict=True)]

    def _outputs(self, load: _Load) -> dict[str, NDArray[Any]]:
        request, user, rows = load.request, load.user, load.rows
        if request.expected_event_count not in (UNCHECKED_EVENT_COUNT, user.event_count) and not load.replayed:
            raise InputError(
                f"expected_event_count is {request.expected_event_count}, but {user.event_count} events of the user "
                "are stored; read event_count again and send the events that are missing"
            )
        state: dict[str, NDArray[Any]] = self._absent if user.state is None else user.state
        limits = self._settings.limits
        excluded = self._excluded(load, state[WINDOW_ITEMS.name])
        events = self._bucket_length(load.events, limits.max_events)
        call_context = CallContext(
            user_id=request.user_id,
            request_id=request.request_id,
            revision=user.revision,
            event_count=user.event_count,
            events=load.events,
            status=user.status,
            top_k=request.top_k,
            candidate_count=NO_CANDIDATES if request.candidate_keys is None else len(rows.candidates),
        )
        outputs = state | {
            ITEM_ROWS.name: pad(rows.items[: load.events], events),
            BEHAVIOR_ROWS.name: pad(rows.behaviors[: load.events], events),
            ROW_TIMES.name: pad(request.times[: load.events], events),
            NOW.name: np.array([request.now], np.int64),
            EXCLUDED_ROWS.name: pad(excluded, self._bucket_length(len(excluded), self._max_excluded)),
            CANDIDATE_ROWS.name: pad(rows.candidates, self._bucket_length(len(rows.candidates), limits.max_candidates)),
            CALL_CONTEXT.name: call_context.pack(),
        }
        return {name: values[None] for name, values in outputs.items()}

    def _excluded(self, load: _Load, window: ItemRows) -> ItemRows:
        """Rows of known items not to return; with exclude_recent also those of the window after this request."""
        excluded = load.rows.excluded
        if not (load.request.exclude_recent or excluded.size):
            return _NO_ROWS
        if load.request.exclude_recent:
            recent = np.concatenate([window, load.rows.items[: load.events]])[-len(window) :]
            excluded = np.concatenate([excluded, recent])
        known: ItemRows = np.unique(excluded[(excluded > 0) & (excluded <= self._settings.items)])
        return known

    def _count(self, loads: Sequence[_Load], *, rejected: int) -> None:
        unknown = self._settings.items + 1
        counts = Counter({ServerCounter.REJECTED_REQUEST: rejected})
        for load in loads:
            rows = load.rows
            counts[ServerCounter.UNKNOWN_ITEM] += np.count_nonzero(rows.items == unknown)
            counts[ServerCounter.UNKNOWN_ITEM] += np.count_nonzero(rows.candidates == unknown)
            counts[ServerCounter.UNKNOWN_BEHAVIOR] += np.count_nonzero(rows.behaviors == 0)
            counts[ServerCounter.REPLAYED_REQUEST] += load.replayed
            if load.user.status in _COUNTED_STATUSES:
                counts[_COUNTED_STATUSES[load.user.status]] += 1
        for counter, count in counts.items():
            if count:
                self._counters.add(counter, count)


@dataclass(frozen=True)
class _Rows:
    """Rows of one request's keys, int64: (T,), (T,) or (0,), (N,) and (X,)."""

    items: ItemRows
    behaviors: ItemRows
    candidates: ItemRows
    excluded: ItemRows


@dataclass(frozen=True)
class _Load:
    """One valid request and its user's stored record."""

    request: ValidatedRequest
    user: StoredUser
    rows: _Rows

    @property
    def replayed(self) -> bool:
        """Whether this request's events are in the state already."""
        return self.request.request_id in self.user.request_ids

    @property
    def events(self) -> int:
        """Events to apply."""
        return 0 if self.replayed else len(self.request.times)


def attempted(work: Callable[[Given], StepResult], given: Given) -> StepResult:
    """The result of one request, or its error: one bad request must not fail its batch-mates."""
    try:
        return work(given)
    except Exception as error:  # noqa: BLE001
        return error


def _mapped(rows_of: Callable[[Keys], ItemRows], keys: Sequence[Keys]) -> list[ItemRows]:
    """Rows of many short key arrays in one look-up."""
    ends = [0, *accumulate(map(len, keys))]
    if not ends[-1]:
        return [_NO_ROWS] * len(keys)
    rows = rows_of(keys[0] if len(keys) == 1 else np.concatenate(keys))
    return [rows[start:stop] for start, stop in pairwise(ends)]
