"""What the serving steps count, apart from how it is published."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class ServerCounter(StrEnum):
    """One kind of thing counted; the value is its metric's name, see `DESCRIPTIONS`."""

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
    ServerCounter.UNKNOWN_ITEM: "Item keys of events and candidates that the vocabulary does not hold",
    ServerCounter.UNKNOWN_BEHAVIOR: "Behavior keys of events that the vocabulary does not hold",
    ServerCounter.MODEL_MISMATCH: "Calls that found a record of another model and treated it as absent",
    ServerCounter.DAMAGED_STATE: "Calls that found a damaged record and treated it as absent",
    ServerCounter.EXPIRED_STATE: "Calls that found a record older than the time-to-live and treated it as absent",
    ServerCounter.REPLAYED_REQUEST: "Calls whose request_id was known, so that their events were not applied again",
    ServerCounter.REJECTED_REQUEST: "Calls refused because of their input",
    ServerCounter.CONFLICT: "Calls that lost the race for a user's record and were told to retry",
    ServerCounter.STORE_FULL: "Calls that found the state store full",
}


class Counters(Protocol):
    """Where counts go."""

    def add(self, event: ServerCounter, count: int) -> None:
        """Count `event` `count` times more."""
