"""Quality report of half precision against float32, and its bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hytrec_export.errors import QualityError

HR, NDCG, AUC = "hr@500", "ndcg@500", "auc"


@dataclass(frozen=True, kw_only=True)
class QualityBounds:
    """How much half precision may change; the reasons for the numbers stand in docs/precision.md.

    Args:
        score: largest difference of a score, over the spread of the scores (their standard deviation).
        overlap: minimum share of the top 10 of retrieve-then-rerank that stays.
        metric: largest relative change of HR@500, NDCG@500 and AUC.
        batched: largest difference that batch-mates and padding make, over the spread.
    """

    score: float = 0.05
    overlap: float = 0.99
    metric: float = 0.005
    batched: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is compared with float32, for messages.

    Args:
        option: that a build does without if it does not hold.
    """

    name: str = "float16"
    option: str = "--fp16"

    @property
    def advice(self) -> str:
        """What to do where a bound does not hold."""
        return (
            f"build without {self.option}, or train the run longer: scores that lie close together change places easily"
        )


@dataclass(frozen=True, kw_only=True)
class MetricChange:
    """A metric of both sets of graphs.

    Args:
        step: what the metric changes by when one user's item moves by one place; a smaller bound than that cannot be
            told from chance.
    """

    float32: float
    half: float
    step: float

    @property
    def relative(self) -> float:
        """|half - float32| / float32; 0 where nothing changed, infinite where float32 has 0."""
        change = abs(self.half - self.float32)
        return change / self.float32 if self.float32 else math.inf if change else 0.0

    def holds(self, bound: float) -> bool:
        """Whether the change is within a relative bound, or is one user's."""
        return abs(self.half - self.float32) <= max(bound * self.float32, self.step * (1 + 1e-9))


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Two users fed event by event, one by each set of graphs.

    Args:
        appends: single events fed.
        state: largest difference of the state after them, over max(1, max |tensor|).
        score: largest difference of a score after them.
    """

    appends: int
    state: float
    score: float


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """Differences of half precision from float32.

    Args:
        users: histories evaluated.
        evaluated: of these, with a last event that can be predicted.
        spread: standard deviation of a user's scores, the mean over users; 1 where no user has two candidates.
        score: largest difference of a score. score_where: of whom.
        overlap: share of the top 10 that is the same item, or one that scores the same.
        overlap_in_place: share that is the same item.
        metrics: by name.
        drift: over single-event appends.
        batched: largest difference of a score that batch-mates and padding make, by set of graphs.
    """

    users: int
    evaluated: int
    spread: float
    score: float
    score_where: str
    overlap: float
    overlap_in_place: float
    metrics: Mapping[str, MetricChange]
    drift: Drift
    batched: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        for name, change in self.metrics.items():
            values["metrics"][name]["relative"] = change.relative
        return values

    def check(self, bounds: QualityBounds, subject: Subject = Subject()) -> None:
        """Compare with the bounds.

        Raises:
            QualityError: one does not hold.
        """
        limit, what = bounds.score * self.spread, subject.name
        if not self.score <= limit:
            raise QualityError(
                f"{what} changes a score by {self.score:.3g} > {limit:.3g} ({bounds.score:g} of the scores' spread) "
                f"at {self.score_where}; {subject.advice}"
            )
        if not self.overlap >= bounds.overlap:
            raise QualityError(
                f"{what} keeps {self.overlap:.2%} of the top 10 of {self.users} users, it must keep "
                f"{bounds.overlap:.2%}; {subject.advice}"
            )
        for name, change in self.metrics.items():
            if not change.holds(bounds.metric):
                raise QualityError(
                    f"{what} changes {name} of {self.evaluated} users from {change.float32:.4f} to {change.half:.4f}, "
                    f"by {change.relative:.2%} > {bounds.metric:.2%}; {subject.advice}"
                )
        if not math.isfinite(self.drift.state + self.drift.score):
            raise QualityError(
                f"{what} does not stay finite over {self.drift.appends} single appends (state {self.drift.state:g}, "
                f"score {self.drift.score:g}); {subject.advice}"
            )
        for name, difference in self.batched.items():
            limit = bounds.batched * self.spread
            if not difference <= limit:
                raise QualityError(
                    f"batch-mates and padding change a score of the {name} graphs by {difference:.3g} > {limit:.3g} "
                    f"({bounds.batched:g} of the scores' spread); choose the other --lowering, and report it"
                )
