"""Counters of the serving steps, apart from how they are published."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class ServerCounter(StrEnum):
    """Counters by the names of their metrics; see `DESCRIPTIONS`."""

    UNKNOWN_ITEM = "hytrec_unknown_items_total"
    UNKNOWN_BEHAVIOR = "hytrec_unknown_behaviors_total"
    MODEL_MISMATCH = "hytrec_model_mismatch_states_total"
    DAMAGED_STATE = "hytrec_damaged_states_total"
    EXPIRED_STATE = "hytrec_expired_states_total"
    REPLAYED_REQUEST = "hytrec_replayed_requests_total"
    REJECTED_REQUEST = "hytrec_rejected_requests_total"
    CONFLICT = "hytrec_state_conflicts_total"
    STORE_FULL = "hytrec_store_full_total"


DESCRIPTIONS = {
    ServerCounter.UNKNOWN_ITEM: "Item keys of events and candidates that are not in the vocabulary",
    ServerCounter.UNKNOWN_BEHAVIOR: "Behavior keys of events that are not in the vocabulary",
    ServerCounter.MODEL_MISMATCH: "Requests that found a record of another model and treated it as absent",
    ServerCounter.DAMAGED_STATE: "Requests that found a damaged record and treated it as absent",
    ServerCounter.EXPIRED_STATE: "Requests that found a record older than the time-to-live and treated it as absent",
    ServerCounter.REPLAYED_REQUEST: "Requests whose request_id was known, so that their events were not applied again",
    ServerCounter.REJECTED_REQUEST: "Requests rejected because of their input",
    ServerCounter.CONFLICT: "Requests that lost the race for a user's record; the client retries them",
    ServerCounter.STORE_FULL: "Requests that found the state store full",
}
SESSION_LOAD_COUNTERS = (
    ServerCounter.UNKNOWN_ITEM,
    ServerCounter.UNKNOWN_BEHAVIOR,
    ServerCounter.REJECTED_REQUEST,
)
LOAD_COUNTERS = (
    *SESSION_LOAD_COUNTERS,
    ServerCounter.MODEL_MISMATCH,
    ServerCounter.DAMAGED_STATE,
    ServerCounter.EXPIRED_STATE,
    ServerCounter.REPLAYED_REQUEST,
)
SAVE_COUNTERS = (ServerCounter.CONFLICT, ServerCounter.STORE_FULL)


class Counters(Protocol):
    """Where counts go."""

    def add(self, counter: ServerCounter, count: int) -> None:
        """Raise `counter` by `count`."""
