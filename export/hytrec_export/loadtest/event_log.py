"""The event log that traffic is made from: users, their events in order, and the times moved to just before now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.data.logs.options import LogOptions
from hytrec.errors import DataError
from hytrec_clients import KeyTypes
from hytrec_export.errors import MissingPackageError

Int64Array = NDArray[np.int64]
Keys = NDArray[Any]
"""(n,) int64, or 'S' holding UTF-8."""
MARGIN_S = 60
"""The shifted log ends so long before now."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EventLog:
    """Events of the users taken; those of user u are `offsets[u]:offsets[u + 1]` of the flat arrays.

    Args:
        item_keys: (I,) the log's items, in any order.
        items: (E,) position of every event's item in `item_keys`.
        behavior_keys: (A,) or None where the log has none.
        behaviors: (E,) position in `behavior_keys`, -1 where the event has none.
        times: (E,) unix seconds, never decreasing within a user.
        popularity: (I,) events of every item in the whole log.
    """

    offsets: Int64Array
    item_keys: Keys
    items: Int64Array
    behavior_keys: Keys | None
    behaviors: Int64Array
    times: Int64Array
    popularity: Int64Array

    @property
    def users(self) -> int:
        """How many users were taken."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64Array:
        """(U,) events of every user."""
        return np.diff(self.offsets)

    def popular_items(self, count: int) -> Int64Array:
        """Positions of the most frequent items, most frequent first."""
        return np.argsort(-self.popularity, kind="stable")[:count]

    def moved_to(self, now_s: int) -> EventLog:
        """The same log, all times shifted by one offset, so that its last event is `MARGIN_S` before now."""
        moved = self.times + (now_s - MARGIN_S - int(self.times.max()))
        if moved.min() < 1:
            raise DataError(
                f"the event log spans {int(np.ptp(self.times))} s, which is longer than unix time; check its times"
            )
        return replace(self, times=moved)


def read_event_log(path: Path, *, options: LogOptions, key_types: KeyTypes, users: int, seed: int) -> EventLog:
    """Read a log, and take some of its users at random: each as likely as any other, so that frequencies stay real.

    Args:
        key_types: of the server.
        users: maximum to take.

    Raises:
        DataError: the log cannot be read, or its keys are strings where the server's are integers.
        MissingPackageError: duckdb is not installed.
    """
    try:
        from hytrec.data.logs.reader import read_log  # noqa: PLC0415  duckdb
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{error.name} is not installed; run: pip install 'hytrec-export[loadtest]'"
        ) from error
    log = read_log([path], options=options)
    taken = np.sort(np.random.default_rng(seed).permutation(len(log.user_keys))[:users])
    lengths = np.diff(log.offsets)[taken]
    ends = np.cumsum(lengths)
    events = np.repeat(log.offsets[taken] - (ends - lengths), lengths) + np.arange(lengths.sum())
    return EventLog(
        offsets=np.concatenate(([0], ends)).astype(np.int64),
        item_keys=_as_type(path, log.item_keys, key_types.item_key, "item"),
        items=log.item_codes[events].astype(np.int64),
        behavior_keys=(
            None if log.behavior_keys is None else _as_type(path, log.behavior_keys, key_types.behavior_key, "behavior")
        ),
        behaviors=log.behavior_codes[events].astype(np.int64),
        times=log.times[events],
        popularity=np.bincount(log.item_codes, minlength=len(log.item_keys)).astype(np.int64),
    )


def _as_type(path: Path, keys: Keys, wanted: type[int | str], name: str) -> Keys:
    """Keys in the server's type: integers may become strings, never the other way."""
    if wanted is str:
        return keys if keys.dtype.kind == "S" else keys.astype("S")
    if keys.dtype.kind == "S" and keys.size:
        text = next((key for key in keys if not key.isdigit()), keys[0])
        raise DataError(
            f"{path} holds the {name} key {text.decode()!r}; the server's {name} keys are whole numbers, "
            "give the log it was trained on"
        )
    return keys.astype(np.int64)
