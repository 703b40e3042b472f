from __future__ import annotations

import math

import pytest

from measures.figures import BOUNDS, Bound, Relation, misses


@pytest.mark.parametrize(
    ("relation", "held", "missed"),
    [
        (Relation.AT_MOST, [1, 2], [2.1]),
        (Relation.UNDER, [1.9], [2, 3]),
        (Relation.AT_LEAST, [2, 3], [1.9]),
        (Relation.OVER, [2.1], [2, 1]),
        (Relation.EXACTLY, [2], [1, 3]),
    ],
)
def test_a_bound_holds_on_its_side_of_the_limit(relation: Relation, held: list[float], missed: list[float]) -> None:
    bound = Bound(relation, 2)
    assert all(bound.holds(value) for value in held)
    assert not any(bound.holds(value) for value in missed)


@pytest.mark.parametrize("relation", Relation)
def test_what_is_not_a_number_never_holds(relation: Relation) -> None:
    assert not Bound(relation, 2).holds(math.nan)


def test_a_miss_says_which_bound_and_by_how_much() -> None:
    assert misses({"append_cost_ratio_10000_over_10": 2.6}) == [
        "append_cost_ratio_10000_over_10 is 2.6, it must be under 1.3 (off by 1.3, a factor of 2.00)"
    ]
    assert misses({"acknowledged_events_lost": 3}) == ["acknowledged_events_lost is 3, it must be exactly 0 (off by 3)"]


def test_an_infinite_difference_is_told() -> None:
    assert misses({"stream_state_max_rel_diff": math.inf}) == [
        "stream_state_max_rel_diff is inf, it must be at most 0.0001 (off by inf)"
    ]


def test_figures_without_a_bound_and_bounds_without_a_figure_are_no_misses() -> None:
    assert misses({"append_ms": 1e9}) == []
    assert misses({name: bound.limit for name, bound in BOUNDS.items() if bound.holds(bound.limit)}) == []
