"""A user's events, as a caller gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import seconds_hint
from hytrec.signature import MAX_TIME_S
from hytrec_clients.errors import InvalidRequest
from hytrec_clients.results import Key

Keys = Sequence[Key] | NDArray[Any]
"""Keys of one tensor: a sequence of Python values, or a numpy array of one axis."""


@dataclass(frozen=True, eq=False)
class Events:
    """Events of one user, oldest first: `Events([50, 181], [t0, t1])`.

    Args:
        item_keys: T item keys.
        times: T unix times in whole seconds.
        behavior_keys: T behavior keys; None where the log has none.

    Raises:
        InvalidRequest: the lengths differ, or the times are not whole seconds.
    """

    item_keys: Keys
    times: Sequence[int] | NDArray[Any]
    behavior_keys: Keys | None = None

    def __post_init__(self) -> None:
        # A frozen dataclass is set this way; lists and arrays slice alike, which backfill relies on.
        object.__setattr__(self, "item_keys", as_sequence("item_keys", self.item_keys))
        object.__setattr__(self, "times", _times(self.times))
        if self.behavior_keys is not None:
            object.__setattr__(self, "behavior_keys", as_sequence("behavior_keys", self.behavior_keys))
        for name, values in (("times", self.times), ("behavior_keys", self.behavior_keys)):
            if values is not None and len(values) != len(self.item_keys):
                raise InvalidRequest(
                    f"{name} has {len(values)} entries and item_keys {len(self.item_keys)}; give one for every event",
                    field=name,
                )

    @classmethod
    def one(cls, item_key: Key, time: int, behavior_key: Key | None = None) -> Events:
        """A single event."""
        return cls([item_key], [time], None if behavior_key is None else [behavior_key])

    def __len__(self) -> int:
        return len(self.item_keys)

    def part(self, start: int, stop: int) -> Events:
        """Events start to stop, stop excluded."""
        behaviors = None if self.behavior_keys is None else self.behavior_keys[start:stop]
        return Events(self.item_keys[start:stop], self.times[start:stop], behaviors)


def as_sequence(field: str, values: Iterable[Any]) -> list[Any] | NDArray[Any]:
    """Values as a list or a numpy array of one axis.

    Raises:
        InvalidRequest: a lone string or number, or an array of more than one axis.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InvalidRequest(f"{field} is {values!r}; give a list or an array, such as [{values!r}]", field=field)
    if not hasattr(values, "__array__"):
        return list(values)
    array = np.asarray(values)
    if array.ndim != 1:
        raise InvalidRequest(f"{field} has shape {array.shape}; give one axis, one user per request", field=field)
    return array


def _times(values: Iterable[Any]) -> NDArray[np.int64]:
    """Times as int64 (T,).

    Raises:
        InvalidRequest: they are not whole seconds.
    """
    sequence = as_sequence("times", values)
    array = np.asarray(sequence)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidRequest(
            f"times holds {sequence[0]!r}; give whole unix seconds, such as int(time.time()) or "
            "int(moment.timestamp())",
            field="times",
        )
    latest = int(array.max())
    if latest > MAX_TIME_S:
        raise InvalidRequest(
            f"times holds {latest}; give unix seconds, this {seconds_hint(latest, MAX_TIME_S)}", field="times"
        )
    return array.astype(np.int64)
