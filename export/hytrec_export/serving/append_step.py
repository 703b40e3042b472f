"""Most appends in one step: events at the end of a history of which nothing has to be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.data.keys import AnyKeys
from hytrec_export.errors import InputError
from hytrec_export.serving.catalog_view import View
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.receipt import Receipts
from hytrec_export.serving.validation import Inputs, Keys, ValidatedRequest, validate_request
from hytrec_export.settings import ServingSettings
from hytrec_export.state.applied_requests import NO_REQUEST
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.store import Outcome, UserAppend
from hytrec_export.state.users import StateStore

APPEND_STEP = "hytrec_state_append"
"""Its name in metrics."""
_KNOWN_KEYS = 1 << 14
"""Keys that are remembered as known, less than a megabyte or two."""


class Refresh(Protocol):
    """Makes snapshots some time later, see `state_refresh`."""

    def has_room(self) -> bool:
        """Whether users may be asked for."""

    def ask(self, user_ids: Sequence[bytes]) -> None:
        """Have users' snapshots made soon."""


class AppendStep:
    """Appends one server batch in one transaction of the store, in place of the load and the save step.

    A request that was applied before is answered here, too. One that needs more is left to them, whatever it is, and
    so are its errors.

    Args:
        counters: of the load step.
        refresh: makes the snapshots that became due; while it has no room, these appends take the other steps.
        clock, clock_ns: unix seconds, and the clock that requests are given up by.
    """

    def __init__(
        self,
        *,
        settings: ServingSettings,
        store: StateStore,
        counters: Counters,
        view: View,
        clock: Callable[[], float] = time.time,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        refresh: Refresh | None = None,
    ) -> None:
        self._refresh = refresh
        self._known_items: set[Any] = set()
        self._known_behaviors: set[Any] = set()
        self._settings = settings
        self._store = store
        self._counters = counters
        self._view = view
        self._clock = clock
        self._clock_ns = clock_ns
        self._receipts = Receipts(settings.fingerprint)

    def run(self, batch: Sequence[Inputs]) -> list[StepResult | None]:
        """Inputs of `hytrec.signature.STATE_LOAD` -> outputs of `STATE_SAVE` for an append; None for the other steps.

        user_id (1, 1) bytes, item_keys (1, T) int64 or bytes, times (1, T) int64 -> event_count (1, 1) int64,
        applied (1, 1) bool, model_fingerprint (1, 16) uint8, state_status (1, 1) int64. Where the store fails, the
        error of those that were to be written.
        """
        clock_s = int(self._clock())
        requests = {place: request for place, given in enumerate(batch) if (request := self._plain(given, clock_s))}
        results: list[StepResult | None] = [None] * len(batch)
        if not requests:
            return results
        try:
            unknown = self._unknown(list(requests.values()))
            refresh = self._refresh
            appends = [self._append(request) for request in requests.values()]
            written = self._store.append_many(appends, may_wait=refresh is not None and refresh.has_room())
        except Exception as error:  # noqa: BLE001  requests that take the other steps go on
            return [error if place in requests else None for place in range(len(batch))]
        replayed = 0
        for place, result in zip(requests, written, strict=True):
            if result is not None:
                applied = result.outcome is Outcome.WRITTEN
                replayed += not applied
                results[place] = self._receipts.of(result.event_count, applied=applied, status=StateStatus.FOUND)
        if replayed:
            self._counters.add(ServerCounter.REPLAYED_REQUEST, replayed)
        for counter, counts in unknown.items():
            if count := sum(n for n, result in zip(counts, written, strict=True) if result is not None):
                self._counters.add(counter, count)
        due = [new.user_id for new, result in zip(appends, written, strict=True) if result is not None and result.due]
        if refresh and due:
            refresh.ask(due)
        return results

    def _plain(self, inputs: Inputs, clock_s: int) -> ValidatedRequest | None:
        """A valid request with events that are to be added, whose client still waits.

        It has an id: without one, a write that a store over a network was not answered for would be made again.
        """
        settings = self._settings
        try:
            request = validate_request(
                inputs, limits=settings.limits, retrieved=settings.sizes.retrieved, clock_s=clock_s
            )
        except InputError:
            return None
        late = self._clock_ns() > request.give_up_at_ns
        named = request.request_id != NO_REQUEST
        return request if named and len(request.times) and not (late or request.replace) else None

    def _append(self, request: ValidatedRequest) -> UserAppend:
        return UserAppend(
            user_id=request.user_id,
            request_id=request.request_id,
            events=StoredEvents.given(request.item_keys, request.behavior_keys, request.times, self._store.types),
            expected_event_count=request.expected_event_count,
        )

    def _unknown(self, requests: Sequence[ValidatedRequest]) -> dict[ServerCounter, list[int]]:
        """Of every request, how many of its keys the vocabulary does not have."""
        return {
            ServerCounter.UNKNOWN_ITEM: _unknown(
                [request.item_keys for request in requests], self._known_items, self._is_item
            ),
            ServerCounter.UNKNOWN_BEHAVIOR: _unknown(
                [request.behavior_keys for request in requests], self._known_behaviors, self._is_behavior
            ),
        }

    def _is_item(self, keys: AnyKeys) -> NDArray[np.bool_]:
        vocabulary = self._view().vocabulary
        known: NDArray[np.bool_] = vocabulary.item_rows(keys) != vocabulary.unknown_row
        return known

    def _is_behavior(self, keys: AnyKeys) -> NDArray[np.bool_]:
        return self._view().vocabulary.behavior_rows(keys) > 0


def _unknown(keys: Sequence[Keys], known: set[Any], is_known: Callable[[AnyKeys], NDArray[np.bool_]]) -> list[int]:
    """How many of each array are unknown.

    Args:
        known: keys that were looked up before; a key that is known stays so.
    """
    if len(known) > _KNOWN_KEYS:
        known.clear()
    listed = [part.tolist() for part in keys]
    new = {key for part in listed for key in part if key not in known}
    if new:
        asked = list(new)
        known.update(key for key, found in zip(asked, is_known(asked).tolist(), strict=True) if found)
    return [sum(key not in known for key in part) for part in listed]
