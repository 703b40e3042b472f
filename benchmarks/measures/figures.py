"""The bounds of the figures: what must hold, and how a miss is told."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

Figure = float | int


class Relation(StrEnum):
    """How a figure must stand to its limit."""

    AT_MOST = "at most"
    UNDER = "under"
    AT_LEAST = "at least"
    OVER = "over"
    EXACTLY = "exactly"


_HOLDS: dict[Relation, Callable[[Figure, Figure], bool]] = {
    Relation.AT_MOST: operator.le,
    Relation.UNDER: operator.lt,
    Relation.AT_LEAST: operator.ge,
    Relation.OVER: operator.gt,
    Relation.EXACTLY: operator.eq,
}


@dataclass(frozen=True)
class Bound:
    """What must hold of a figure."""

    relation: Relation
    limit: Figure

    def holds(self, value: Figure) -> bool:
        """Whether it does; never of what is not a number."""
        return not math.isnan(value) and _HOLDS[self.relation](value, self.limit)

    def __str__(self) -> str:
        return f"{self.relation.value} {self.limit:g}"


BOUNDS: dict[str, Bound] = {
    "stream_score_max_abs_diff": Bound(Relation.AT_MOST, 1e-4),
    "stream_state_max_rel_diff": Bound(Relation.AT_MOST, 1e-4),
    "remembering_decay_min": Bound(Relation.AT_LEAST, 0.999),
    "history_sensitivity": Bound(Relation.OVER, 100),
    "served_score_max_abs_diff": Bound(Relation.AT_MOST, 1e-4),
    "served_top10_overlap": Bound(Relation.AT_LEAST, 1),
    "served_users": Bound(Relation.AT_LEAST, 200),
    "append_cost_ratio_10000_over_10": Bound(Relation.UNDER, 1.3),
    "append_speedup_over_reencode_10000": Bound(Relation.AT_LEAST, 500),
    "encode_time_ratio_10000_over_1000": Bound(Relation.AT_MOST, 11),
    "encode_speedup_over_eager_10000": Bound(Relation.AT_LEAST, 2),
    "chunked_one_event_over_64": Bound(Relation.AT_MOST, 0.75),
    "engines_built": Bound(Relation.EXACTLY, 24),
    "engines_build_seconds": Bound(Relation.UNDER, 300),
    "fp16_engine_size_ratio": Bound(Relation.AT_MOST, 0.65),
    "kills": Bound(Relation.AT_LEAST, 200),
    "acknowledged_events_lost": Bound(Relation.EXACTLY, 0),
    "acknowledged_events_misplaced": Bound(Relation.EXACTLY, 0),
    "events_applied_twice": Bound(Relation.EXACTLY, 0),
    "killed_state_max_rel_diff": Bound(Relation.AT_MOST, 1e-4),
    "concurrent_event_count_error": Bound(Relation.EXACTLY, 0),
    "failing_calls_survived": Bound(Relation.AT_LEAST, 3_000),
    "fp16_score_max_diff_over_spread": Bound(Relation.AT_MOST, 0.05),
    "fp16_top10_overlap": Bound(Relation.AT_LEAST, 0.99),
    "fp16_hr500_relative_change": Bound(Relation.AT_MOST, 0.005),
    "fp16_ndcg500_relative_change": Bound(Relation.AT_MOST, 0.005),
    "fp16_auc_relative_change": Bound(Relation.AT_MOST, 0.005),
    "fp16_drift_10000_appends": Bound(Relation.AT_MOST, 0.01),
    "fp16_weights_score_max_diff_over_spread": Bound(Relation.AT_MOST, 0.05),
    "fp16_weights_top10_overlap": Bound(Relation.AT_LEAST, 0.99),
    "fp16_weights_file_size_ratio": Bound(Relation.AT_MOST, 0.65),
    "throughput_over_eager_10000": Bound(Relation.AT_LEAST, 50),
    "throughput_over_eager_100": Bound(Relation.AT_LEAST, 1),
    "served_minus_3x_inprocess_p50_ms": Bound(Relation.AT_MOST, 4),
    "append_throughput_ratio_c8_over_c1": Bound(Relation.AT_LEAST, 2),
    "rank_c8_over_inprocess_b8": Bound(Relation.AT_LEAST, 0.7),
    "p99_over_p50_half_load": Bound(Relation.AT_MOST, 4),
    "server_memory_growth": Bound(Relation.AT_MOST, 1.05),
}
"""Figures that must hold; every other one is for orientation."""


def misses(figures: Mapping[str, Figure], bounds: Mapping[str, Bound] = BOUNDS) -> list[str]:
    """One line for every bound that does not hold among the figures measured."""
    return [
        f"{name} is {figures[name]:.4g}, it must be {bound} (off by {abs(figures[name] - bound.limit):.3g}"
        f"{_times(figures[name], bound.limit)})"
        for name, bound in bounds.items()
        if name in figures and not bound.holds(figures[name])
    ]


def _times(value: Figure, limit: Figure) -> str:
    if not limit or not value > 0 or math.isinf(value):
        return ""
    return f", a factor of {max(value / limit, limit / value):.2f}"
