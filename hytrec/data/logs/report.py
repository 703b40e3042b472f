"""What was read of a log: as values that a run keeps, and as lines for the user."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from hytrec.data.keys import Int64Array, Keys

__all__ = ["EventsPerUser", "LogReport"]

_SHOWN_BEHAVIORS = 6


@dataclass(frozen=True, kw_only=True)
class EventsPerUser:
    """Events a user.

    Args:
        median: half of the users have no more.
        p90: nine tenths of the users have no more.
        largest: of the user with the most.
    """

    median: float
    p90: float
    largest: int

    def __str__(self) -> str:
        return f"median {self.median:,.0f}, 90th percentile {self.p90:,.0f}, largest {self.largest:,}"

    @classmethod
    def of(cls, lengths: Int64Array) -> EventsPerUser:
        """From the (U,) events of every user."""
        median, p90 = np.percentile(lengths, [50, 90])
        return cls(median=float(median), p90=float(p90), largest=int(lengths.max()))


@dataclass(frozen=True, kw_only=True)
class LogReport:
    """What was read of a log.

    Args:
        files: number of files.
        format: of the files, with separator and header.
        columns: name of the column of every role.
        rows: of the files.
        dropped: rows left out, by reason; only reasons that occur.
        events: rows kept.
        users: different users.
        items: different items.
        behaviors: different behaviors; the names of a few.
        without_behavior: events whose behavior is missing, where there is a column of behaviors.
        user_keys: "int64" or "string".
        item_keys: "int64" or "string".
        times: what the values of the time column are.
        first_s: unix seconds of the first event.
        last_s: unix seconds of the last event.
        events_per_user: how long histories are.
        repeats: events of an item that the user had before.
        notes: sentences about choices the user may want otherwise.
    """

    files: int
    format: str
    columns: dict[str, str]
    rows: int
    dropped: dict[str, int]
    events: int
    users: int
    items: int
    behaviors: list[str]
    without_behavior: int
    user_keys: str
    item_keys: str
    times: str
    first_s: int
    last_s: int
    events_per_user: EventsPerUser
    repeats: int
    notes: list[str]

    @property
    def repeat_share(self) -> float:
        """Share of events that repeat an item of the same user, in [0, 1)."""
        return self.repeats / self.events

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for a reader."""
        roles = ", ".join(f"{role} {name}" for role, name in self.columns.items())
        plural = "" if self.files == 1 else "s"
        per_user = self.events_per_user
        lines = [
            f"read {self.files:,} file{plural}, {self.format}; columns: {roles}",
            self._counts(),
            f"times are {self.times}, from {_day(self.first_s)} to {_day(self.last_s)}",
            f"events a user: {per_user}",
            f"repeats (of an item that the user had before): {self.repeats:,} events, {self.repeat_share:.1%}",
        ]
        if self.dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
            lines.append(f"dropped rows: {reasons}")
        return lines + [f"note: {note}" for note in self.notes]

    def _counts(self) -> str:
        return (
            f"{self.rows:,} rows, {self.events:,} events, {self.users:,} users ({self.user_keys} keys), "
            f"{self.items:,} items ({self.item_keys} keys), {self._behaviors()}"
        )

    def _behaviors(self) -> str:
        if "behavior" not in self.columns:
            return "no behaviors"
        more = "" if len(self.behaviors) <= _SHOWN_BEHAVIORS else ", ..."
        text = f"{len(self.behaviors)} behaviors ({', '.join(self.behaviors[:_SHOWN_BEHAVIORS])}{more})"
        return text + (f", {self.without_behavior:,} events without" if self.without_behavior else "")


def behavior_names(keys: Keys) -> list[str]:
    """Keys as texts."""
    return [key.decode() if isinstance(key, bytes) else str(key) for key in keys.tolist()]


def _day(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"
