"""A log of which the truth is known: what a user liked N events ago decides what they take after a return.

A user has one taste, some items of the catalog. Their history:

    like x L     items of the taste
    view x d     distractors, drawn evenly, of which no taste has any
    return       a distractor as well: by its behavior one sees that a take comes, not which
    take x n     items of the taste
    view x d, return, take x n, view x d, return, ...         d is drawn anew for every return

The last two returns have one take each, which are the validation and the test; N is d before the test's. What is taken
then is told by the likes and takes before alone, the last of which is N + 2 events back. Nothing else tells it: users,
times and distractors are drawn alike for all tastes, items of all tastes are taken alike often,
and neither a window of recent events nor the proximity of items (lags up to 60 events) reaches across the views.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from hytrec.data.histories import Histories, Int64Array
from hytrec.data.proximity import MAX_LAG
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import ConfigError

__all__ = ["Behavior", "Planted", "PlantedLog", "planted"]

_FIRST_TIME_S = 1_600_000_000


class Behavior(StrEnum):
    """What a user does; in the order of the behavior rows."""

    LIKE = "like"
    RETURN = "return"
    TAKE = "take"
    VIEW = "view"

    @property
    def row(self) -> int:
        """Its row in the model's table."""
        return list(Behavior).index(self) + 1


@dataclass(frozen=True, kw_only=True)
class PlantedLog:
    """What is planted.

    Args:
        seed: the same log for the same seed.
        distances: N, views before the last return; every distance has its own users.
        users: of each distance.
        tastes: of `taste_items` items each.
        distractors: items that are viewed; of the defaults, every item of the catalog has about as many events in the
            training part as any other.
        likes: L.
        takes: n.
        returns: of a user, the validation's and the test's included.
        nearest, farthest: views before every return but the validation's and the test's, drawn evenly in the logarithm.
        validation_distance: views before the validation's return.
        gap_s: mean seconds from event to event, exponentially distributed.
    """

    seed: int = 0
    distances: tuple[int, ...] = (1_000, 5_000, 10_000)
    users: int = 100
    tastes: int = 10
    taste_items: int = 10
    distractors: int = 3_800
    likes: int = 5
    takes: int = 8
    returns: int = 10
    nearest: int = 8
    farthest: int = 1_000
    validation_distance: int = 1_000
    gap_s: float = 300.0

    def __post_init__(self) -> None:
        """Raises: ConfigError: the test or the validation is so near that the proximity of items tells something."""
        near = min(*self.distances, self.validation_distance)
        if near <= MAX_LAG:
            raise ConfigError(
                f"{near} views before a return that is measured are within the {MAX_LAG} events of the items' "
                f"proximity; give more than {MAX_LAG}"
            )
        if self.returns < len(("training", "validation", "test")):
            raise ConfigError(f"returns is {self.returns}; it must be at least 3: training, validation and test")

    @property
    def items(self) -> int:
        """I."""
        return self.tastes * self.taste_items + self.distractors


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """A log and its truth.

    Args:
        tastes: item rows of every taste, (tastes, taste_items) int64.
        user_tastes: (U,) int64.
        distances: N of every user, (U,) int64.
    """

    histories: Histories
    vocabulary: Vocabulary
    tastes: Int64Array
    user_tastes: Int64Array
    distances: Int64Array


def planted(log: PlantedLog) -> Planted:
    """The log; users of all distances and items of all tastes in random order."""
    random = np.random.default_rng(log.seed)
    rows = random.permutation(log.items) + 1
    distractors, tastes = rows[: log.distractors], rows[log.distractors :].reshape(log.tastes, log.taste_items)
    distances = random.permutation(np.repeat(np.array(log.distances, np.int64), log.users))
    user_tastes = random.integers(log.tastes, size=distances.size)
    behaviors = [_behaviors(log, int(distance), random) for distance in distances]
    items = [
        np.where(
            np.isin(own, (Behavior.LIKE.row, Behavior.TAKE.row)),
            random.choice(tastes[taste], own.size),
            random.choice(distractors, own.size),
        )
        for own, taste in zip(behaviors, user_tastes, strict=True)
    ]
    gaps = [1 + random.exponential(log.gap_s, own.size) for own in behaviors]
    histories = Histories(
        user_keys=np.arange(distances.size, dtype=np.int64),
        offsets=np.concatenate(([0], np.cumsum([own.size for own in behaviors]))).astype(np.int64),
        item_rows=np.concatenate(items),
        behavior_rows=np.concatenate(behaviors),
        times=_FIRST_TIME_S + np.concatenate([np.cumsum(own) for own in gaps]).astype(np.int64),
    )
    vocabulary = Vocabulary(np.arange(1, log.items + 1), np.array([own.value for own in Behavior], "S"))
    return Planted(
        histories=histories, vocabulary=vocabulary, tastes=tastes, user_tastes=user_tastes, distances=distances
    )


def _behaviors(log: PlantedLog, distance: int, random: np.random.Generator) -> Int64Array:
    """Behavior rows of a history."""
    drawn = np.exp(random.uniform(np.log(log.nearest), np.log(log.farthest + 1), log.returns - 2)).astype(np.int64)
    rows = [Behavior.LIKE.row] * log.likes
    for place, views in enumerate((*drawn, log.validation_distance, distance)):
        takes = log.takes if place < drawn.size else 1
        rows += [Behavior.VIEW.row] * int(views) + [Behavior.RETURN.row] + [Behavior.TAKE.row] * takes
    return np.array(rows, np.int64)
