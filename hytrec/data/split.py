"""What is trained on, what choices are made on (the validation part) and what is reported (the test part).

Leave-last-out: a user's last event is the test, the last but one the validation, the rest the training. "Last" goes by
time; at equal times the order of the source decides. A user of one or two events is training only: there would be
nothing to learn from or to predict with. A model then sees what others did later than the event that it predicts.

Where behaviors are named (purchases, say), the events to predict are of these alone: a user's last one is the test, the
last but one the validation, and what came before that one, of any behavior, the training.

By time: the events before 80% of the log's events are the training, of all users; predicted is every user's first event
from there to 90% (validation) and from 90% on (test), of users who had events before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from hytrec.data.histories import Histories, History, Int64Array, padded_rows

__all__ = ["Evaluation", "EvaluationBatch", "Part", "Repeats", "Split", "evaluation", "repeat_share", "training"]

_REPEATING = 0.1
"""Share of repeats from which they are what users do; logs of ratings and reviews have next to none."""


class Repeats(StrEnum):
    """Whether an item that the user had before may be recommended, and asked for in an evaluation."""

    ALLOW = "allow"
    REMOVE = "remove"

    @classmethod
    def of(cls, *, allowed: bool) -> Repeats:
        """The protocol's name."""
        return cls.ALLOW if allowed else cls.REMOVE

    @classmethod
    def shown_by(cls, share: float) -> Repeats:
        """What a log suggests: `share` of its events, in [0, 1], are of an item that the user had before."""
        return cls.of(allowed=share >= _REPEATING)


class Split(StrEnum):
    """How a log is cut into training, validation and test."""

    LAST = "last"
    TIME = "time"


class Part(StrEnum):
    """Which event is predicted."""

    VALIDATION = "validation"
    TEST = "test"

    @property
    def from_end(self) -> int:
        """1 for the last event of a history, 2 for the one before."""
        return 1 if self is Part.TEST else 2

    @property
    def share(self) -> float:
        """Share of the log's events before the part, where it is cut by time."""
        return 0.9 if self is Part.TEST else 0.8


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationBatch:
    """Some users of an evaluation.

    Args:
        histories: B histories, all events before the predicted one.
        targets: (B,) int64 item row of the predicted event.
        now: (B,) int64 unix seconds, its time.
        seen: (B, X) int64 item rows that may not be recommended, padded with 0; X = 0 if repeats are allowed.
    """

    histories: list[History]
    targets: Int64Array
    now: Int64Array
    seen: Int64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The events to predict of one part, one for each user that can be evaluated.

    Args:
        histories: the whole log.
        users: (n,) int64 positions in `histories`, increasing.
        events: (n,) int64 position of each user's predicted event in the flat arrays.
        allow_repeats: whether seen items may be recommended.
        short_users: users left out because they have under three events (two to predict and one before), or no event
            before the part's time or to predict in it.
        unanswerable_users: users left out because their item is unknown, or seen before and repeats are not allowed.
    """

    histories: Histories
    users: Int64Array
    events: Int64Array
    allow_repeats: bool
    short_users: int
    unanswerable_users: int

    def __len__(self) -> int:
        return self.users.size

    @property
    def targets(self) -> Int64Array:
        """(n,) int64 item rows of the predicted events, 1..I."""
        return self.histories.item_rows[self.events]

    @property
    def now(self) -> Int64Array:
        """(n,) int64 unix seconds, times of the predicted events."""
        return self.histories.times[self.events]

    def history(self, index: int) -> History:
        """Events of user `index` of this evaluation before the predicted one, validation event included at the test."""
        user = self.users[index]
        return self.histories.history(user).before(self.events[index] - self.histories.offsets[user])

    def seen(self, index: int) -> Int64Array:
        """Different item rows that may not be recommended to user `index`, increasing."""
        if self.allow_repeats:
            return np.empty(0, dtype=np.int64)
        return np.unique(self.history(index).item_rows)

    def thinned(self, users: int) -> Evaluation:
        """A subset of at most `users` users, evenly spaced."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(users, len(self))).astype(np.int64))
        return replace(self, users=self.users[chosen], events=self.events[chosen])

    def batch(self, indices: Int64Array) -> EvaluationBatch:
        """Some users, by their indices in this evaluation (B,)."""
        return EvaluationBatch(
            histories=[self.history(index) for index in indices],
            targets=self.targets[indices],
            now=self.now[indices],
            seen=padded_rows([self.seen(index) for index in indices]),
        )

    def batches(self, size: int = 256) -> Iterator[EvaluationBatch]:
        """All users in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))))


def training(histories: Histories, split: Split = Split.LAST, *, behaviors: Sequence[int] = ()) -> Histories:
    """Every history before its validation event, whole where there is none; by time: events before the cut.

    Args:
        behaviors: rows of the behaviors to predict; none: all events are.
    """
    lengths = histories.lengths
    if split is Split.TIME:
        kept = _events_before(histories, _cut(histories, Part.VALIDATION))
    else:
        kept = lengths.copy()
        users, events = _predicted(histories, Part.VALIDATION, split, behaviors)
        kept[users] = events - histories.offsets[users]
    places = np.arange(histories.times.size) - np.repeat(histories.offsets[:-1], lengths)
    chosen = places < np.repeat(kept, lengths)
    return Histories(
        user_keys=histories.user_keys,
        offsets=np.concatenate(([0], np.cumsum(kept))).astype(np.int64),
        item_rows=histories.item_rows[chosen],
        behavior_rows=histories.behavior_rows[chosen],
        times=histories.times[chosen],
    )


def repeat_share(histories: Histories, behaviors: Sequence[int]) -> float:
    """Share of the events of some behaviors whose item the user had before, in [0, 1]; 0 where there is no event."""
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    pairs = users * (histories.item_rows.max(initial=0) + 1) + histories.item_rows
    _, first = np.unique(pairs, return_index=True)
    repeated = np.ones(users.size, bool)
    repeated[first] = False
    own = repeated[np.isin(histories.behavior_rows, behaviors)]
    return float(own.mean()) if own.size else 0.0


def _cut(histories: Histories, part: Part) -> int:
    """Unix seconds at which a part begins, if it is cut by time."""
    return int(np.quantile(histories.times, part.share, method="lower"))


def _events_before(histories: Histories, time: int) -> Int64Array:
    """(U,) int64 events of every user before a time; the first of a history, as its times never decrease."""
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    return np.bincount(users[histories.times < time], minlength=len(histories))


def _predicted(
    histories: Histories, part: Part, split: Split, behaviors: Sequence[int]
) -> tuple[Int64Array, Int64Array]:
    """Users who have an event to predict, and its place in the flat arrays: two of (n,) int64."""
    asked = np.isin(histories.behavior_rows, behaviors) if behaviors else np.ones(histories.times.size, bool)
    places = np.flatnonzero(asked)
    begins, ends = np.searchsorted(places, histories.offsets[:-1]), np.searchsorted(places, histories.offsets[1:])
    if split is Split.LAST:
        users = np.flatnonzero(ends - begins >= Part.VALIDATION.from_end)
        learned_from = places[ends[users] - Part.VALIDATION.from_end] > histories.offsets[users]
        users = users[learned_from]
        return users, places[ends[users] - part.from_end]
    before = _events_before(histories, _cut(histories, part))
    end = np.iinfo(np.int64).max if part is Part.TEST else _cut(histories, Part.TEST)
    following = np.searchsorted(places, histories.offsets[:-1] + before)
    users = np.flatnonzero((before > 0) & (following < ends))
    events = places[following[users]]
    within = histories.times[events] < end
    return users[within], events[within]


def evaluation(
    histories: Histories,
    part: Part,
    *,
    items: int,
    allow_repeats: bool = False,
    split: Split = Split.LAST,
    behaviors: Sequence[int] = (),
) -> Evaluation:
    """The events to predict.

    Args:
        items: I; an item the vocabulary does not know (row I + 1) cannot be ranked: its user is left out.
        allow_repeats: False removes a user's seen items from the ranking; then a user whose predicted item was seen
            before is left out too. Both are counted.
        split: how the log is cut.
        behaviors: rows of the behaviors to predict; none: all events are.
    """
    users, events = _predicted(histories, part, split, behaviors)
    targets = histories.item_rows[events]
    answerable = targets <= items
    if not allow_repeats:
        starts = histories.offsets[users]
        earlier = [histories.item_rows[start:event] for start, event in zip(starts, events, strict=True)]
        new = [target not in rows for target, rows in zip(targets, earlier, strict=True)]
        answerable &= np.array(new, dtype=bool)
    return Evaluation(
        histories=histories,
        users=users[answerable],
        events=events[answerable],
        allow_repeats=allow_repeats,
        short_users=len(histories) - users.size,
        unanswerable_users=int(np.sum(~answerable)),
    )
