"""What the serving steps count, apart from how it is published."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Event(StrEnum):
    """One kind of thing counted; the value is its metric's name, see `DESCRIPTIONS`."""

    UNKNOWN_ITEM = "hytrec_unknown_items_total"
    UNKNOWN_BEHAVIOR = "hytrec_unknown_behaviors_total"
    FOREIGN_STATE = "hytrec_foreign_states_total"
    CORRUPT_STATE = "hytrec_corrupt_states_total"
    EXPIRED_STATE = "hytrec_expired_states_total"
    REPLAYED_CALL = "hytrec_replayed_calls_total"
    REFUSED_CALL = "hytrec_refused_calls_total"
    CONFLICT = "hytrec_state_conflicts_total"
    STORE_FULL = "hytrec_store_full_total"


DESCRIPTIONS = {
    Event.UNKNOWN_ITEM: "Item keys of events and candidates that the vocabulary does not hold",
    Event.UNKNOWN_BEHAVIOR: "Behavior keys of events that the vocabulary does not hold",
    Event.FOREIGN_STATE: "Calls that found a record of another model and treated it as absent",
    Event.CORRUPT_STATE: "Calls that found a damaged record and treated it as absent",
    Event.EXPIRED_STATE: "Calls that found a record older than the time-to-live and treated it as absent",
    Event.REPLAYED_CALL: "Calls whose call_id was known, so that their events were not applied again",
    Event.REFUSED_CALL: "Calls refused because of their input",
    Event.CONFLICT: "Calls that lost the race for a user's record and were told to retry",
    Event.STORE_FULL: "Calls that found the state store full",
}


class Counters(Protocol):
    """Where counts go."""

    def add(self, event: Event, count: int) -> None:
        """Count `event` `count` times more."""
