"""The load step: public inputs of a batch of calls -> checked, mapped, padded tensors and each user's state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

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
"""Tensors by name, batch axis first, or why there are none."""
ItemRows: TypeAlias = NDArray[np.int64]

_NO_ROWS: ItemRows = np.empty(0, np.int64)
_UNUSABLE = {
    StateStatus.MODEL_MISMATCH: ServerCounter.MODEL_MISMATCH,
    StateStatus.DAMAGED: ServerCounter.DAMAGED_STATE,
    StateStatus.EXPIRED: ServerCounter.EXPIRED_STATE,
}


class LoadStep:
    """Answers one server batch with one look at the vocabulary and one transaction of the store.

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

    def answer(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of `hytrec_state_load` -> its outputs, one answer per request, in order.

        Raises:
            StoreUnavailableError: the store cannot be read; nobody is answered.
        """
        clock_s = int(self._clock())
        admitted = [self._admit(inputs, clock_s) for inputs in batch]
        calls = [call for call in admitted if isinstance(call, ValidatedRequest)]
        users = self._store.read_many([call.user_id for call in calls]) if calls else []
        loads = [_Load(*parts) for parts in zip(calls, users, self._map_keys(calls), strict=True)]
        loaded = iter([self._answer_one(load) for load in loads])
        answers = [next(loaded) if isinstance(call, ValidatedRequest) else call for call in admitted]
        self._count(loads, refused=sum(isinstance(answer, InputError) for answer in answers))
        return answers

    def _admit(self, inputs: Inputs, clock_s: int) -> ValidatedRequest | InputError:
        settings = self._settings
        try:
            return validate_request(inputs, limits=settings.limits, retrieved=settings.sizes.retrieved, clock_s=clock_s)
        except InputError as error:
            return error

    def _map_keys(self, calls: Sequence[ValidatedRequest]) -> list[_Rows]:
        """Rows of every call, each kind of key mapped in one go."""
        items, behaviors = self._vocabulary.item_rows, self._vocabulary.behavior_rows
        columns = (
            _mapped(items, [call.item_keys for call in calls]),
            _mapped(behaviors, [call.behavior_keys for call in calls]),
            _mapped(items, [_NO_ROWS if call.candidate_keys is None else call.candidate_keys for call in calls]),
            _mapped(items, [call.excluded_keys for call in calls]),
        )
        return [_Rows(*rows) for rows in zip(*columns, strict=True)]

    def _answer_one(self, load: _Load) -> StepResult:
        try:
            return self._outputs(load)
        except Exception as error:  # noqa: BLE001  one bad call must not fail its batch-mates
            return error

    def _outputs(self, load: _Load) -> dict[str, NDArray[Any]]:
        call, user, rows = load.call, load.user, load.rows
        if call.expected_event_count not in (UNCHECKED_EVENT_COUNT, user.event_count) and not load.replayed:
            raise InputError(
                f"expected_event_count is {call.expected_event_count}, but {user.event_count} events of the user are "
                "stored; read event_count again and send the events that are missing"
            )
        state: dict[str, NDArray[Any]] = self._absent if user.state is None else user.state
        limits = self._settings.limits
        excluded = self._excluded(load, state[WINDOW_ITEMS.name])
        events = self._bucket_length(load.events, limits.max_events)
        call_context = CallContext(
            user_id=call.user_id,
            request_id=call.request_id,
            revision=user.revision,
            event_count=user.event_count,
            events=load.events,
            status=user.status,
            top_k=call.top_k,
            candidate_count=NO_CANDIDATES if call.candidate_keys is None else len(rows.candidates),
        )
        outputs = state | {
            ITEM_ROWS.name: pad(rows.items[: load.events], events),
            BEHAVIOR_ROWS.name: pad(rows.behaviors[: load.events], events),
            ROW_TIMES.name: pad(call.times[: load.events], events),
            NOW.name: np.array([call.now], np.int64),
            EXCLUDED_ROWS.name: pad(excluded, self._bucket_length(len(excluded), self._max_excluded)),
            CANDIDATE_ROWS.name: pad(rows.candidates, self._bucket_length(len(rows.candidates), limits.max_candidates)),
            CALL_CONTEXT.name: call_context.pack(),
        }
        return {name: values[None] for name, values in outputs.items()}

    def _excluded(self, load: _Load, window: ItemRows) -> ItemRows:
        """Known items not to return, the window after this call's events among them if the call says so."""
        excluded = load.rows.excluded
        if not (load.call.exclude_recent or excluded.size):
            return _NO_ROWS
        if load.call.exclude_recent:
            recent = np.concatenate([window, load.rows.items[: load.events]])[-len(window) :]
            excluded = np.concatenate([excluded, recent])
        known: ItemRows = np.unique(excluded[(excluded > 0) & (excluded <= self._settings.items)])
        return known

    def _count(self, loads: Sequence[_Load], *, refused: int) -> None:
        unknown = self._settings.items + 1
        counts = Counter({ServerCounter.REJECTED_REQUEST: refused})
        for load in loads:
            rows = load.rows
            counts[ServerCounter.UNKNOWN_ITEM] += np.count_nonzero(rows.items == unknown)
            counts[ServerCounter.UNKNOWN_ITEM] += np.count_nonzero(rows.candidates == unknown)
            counts[ServerCounter.UNKNOWN_BEHAVIOR] += np.count_nonzero(rows.behaviors == 0)
            counts[ServerCounter.REPLAYED_REQUEST] += load.replayed
            if load.user.status in _UNUSABLE:
                counts[_UNUSABLE[load.user.status]] += 1
        for event, count in counts.items():
            if count:
                self._counters.add(event, count)


@dataclass(frozen=True)
class _Rows:
    """Rows of one call's keys: (T,), (T,) or (0,), (N,) and (X,)."""

    items: ItemRows
    behaviors: ItemRows
    candidates: ItemRows
    excluded: ItemRows


@dataclass(frozen=True)
class _Load:
    """One admitted call and what is known of its user."""

    call: ValidatedRequest
    user: StoredUser
    rows: _Rows

    @property
    def replayed(self) -> bool:
        """Whether this call's events are in the state already."""
        return self.call.request_id in self.user.request_ids

    @property
    def events(self) -> int:
        """Events to apply."""
        return 0 if self.replayed else len(self.call.times)


def _mapped(rows_of: Callable[[Keys], ItemRows], keys: Sequence[Keys]) -> list[ItemRows]:
    """Rows of many short key arrays by one look-up."""
    ends = [0, *accumulate(map(len, keys))]
    if not ends[-1]:
        return [_NO_ROWS] * len(keys)
    rows = rows_of(keys[0] if len(keys) == 1 else np.concatenate(keys))
    return [rows[start:stop] for start, stop in pairwise(ends)]
