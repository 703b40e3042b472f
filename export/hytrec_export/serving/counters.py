"""Counters of the serving steps, apart from how they are published."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from hytrec_export.state.sweep import Notice


class ServerCounter(StrEnum):
    """Counters by the names of their metrics; see `DESCRIPTIONS`."""

    UNKNOWN_ITEM = "hytrec_unknown_items_total"
    UNKNOWN_BEHAVIOR = "hytrec_unknown_behaviors_total"
    REBUILT_STATE = "hytrec_rebuilt_states_total"
    DAMAGED_STATE = "hytrec_damaged_states_total"
    EXPIRED_STATE = "hytrec_expired_states_total"
    REPLAYED_REQUEST = "hytrec_replayed_requests_total"
    REJECTED_REQUEST = "hytrec_rejected_requests_total"
    CONFLICT = "hytrec_state_conflicts_total"
    STORE_FULL = "hytrec_store_full_total"
    OVERLOAD = "hytrec_overloaded_requests_total"
    STALE = "hytrec_stale_requests_total"
    FAILED_SNAPSHOT = "hytrec_failed_snapshots_total"
    DAMAGED_USER = "hytrec_damaged_users_total"
    EXPIRY_STOPPED = "hytrec_expiry_stopped_total"


DESCRIPTIONS = {
    ServerCounter.UNKNOWN_ITEM: "Item keys of events and candidates that are not in the vocabulary",
    ServerCounter.UNKNOWN_BEHAVIOR: "Behavior keys of events that are not in the vocabulary",
    ServerCounter.REBUILT_STATE: "Requests whose user's state was encoded again from the stored history",
    ServerCounter.DAMAGED_STATE: "Requests that found a damaged history and used what is left of it",
    ServerCounter.EXPIRED_STATE: "Requests that found a user older than the time-to-live, who counts as absent",
    ServerCounter.REPLAYED_REQUEST: "Requests that were applied before, so that their events were not applied again",
    ServerCounter.REJECTED_REQUEST: "Requests rejected because of their input",
    ServerCounter.CONFLICT: "Requests that lost the race for a user's record; the client retries them",
    ServerCounter.STORE_FULL: "Requests that found the state store full",
    ServerCounter.OVERLOAD: "Requests refused because too many waited",
    ServerCounter.STALE: "Requests that were dropped because their client had given up",
    ServerCounter.FAILED_SNAPSHOT: "States that could not be kept, and will be encoded again",
    ServerCounter.DAMAGED_USER: "Users whose record was found damaged when the store was looked through",
    ServerCounter.EXPIRY_STOPPED: "Times that too many users would have expired at once, so that none did",
}
SESSION_LOAD_COUNTERS = (
    ServerCounter.UNKNOWN_ITEM,
    ServerCounter.UNKNOWN_BEHAVIOR,
    ServerCounter.REJECTED_REQUEST,
)
INTAKE_COUNTERS = (ServerCounter.OVERLOAD, ServerCounter.STALE)
LOAD_COUNTERS = (
    *SESSION_LOAD_COUNTERS,
    *INTAKE_COUNTERS,
    ServerCounter.REBUILT_STATE,
    ServerCounter.DAMAGED_STATE,
    ServerCounter.EXPIRED_STATE,
    ServerCounter.REPLAYED_REQUEST,
    ServerCounter.FAILED_SNAPSHOT,
    ServerCounter.DAMAGED_USER,
    ServerCounter.EXPIRY_STOPPED,
)
NOTICE_COUNTERS = {
    Notice.DAMAGED_USERS: ServerCounter.DAMAGED_USER,
    Notice.EXPIRY_STOPPED: ServerCounter.EXPIRY_STOPPED,
}
SAVE_COUNTERS = (
    ServerCounter.CONFLICT,
    ServerCounter.STORE_FULL,
    ServerCounter.STALE,
    ServerCounter.FAILED_SNAPSHOT,
)


class Counters(Protocol):
    """Where counts go."""

    def add(self, counter: ServerCounter, count: int) -> None:
        """Raise `counter` by `count`."""
