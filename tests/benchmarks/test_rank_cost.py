from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hytrec_benchmarks.rank_cost import LENGTHS, in_turns, measure


def test_ways_take_turns_on_the_same_input() -> None:
    called: list[str] = []
    times: Iterator[float] = iter(range(100))
    ways = {name: [lambda name=name, n=n: called.append(f"{name}{n}") for n in range(2)] for name in "ab"}
    taken = in_turns(ways, 3, clock=lambda: next(times))
    assert called == ["b0", "a0", "a1", "b1", "b0", "a0"]
    assert taken == {"a": [1.0] * 3, "b": [1.0] * 3}


@pytest.mark.long
def test_a_ranking_costs_less_than_by_the_earlier_revision_and_scores_the_same(tmp_path: Path) -> None:
    figures = measure(tmp_path, items=2_000, rounds=40)
    assert float(figures["rank_cost_ratio"]) > 1.2
    assert float(figures["rank_cost_ratio_lean"]) < 0.6 < float(figures["rank_cost_ratio_quality"]) < 1.05
    for length in LENGTHS:
        for kind in ("full", "lean"):
            assert float(figures[f"rank_score_max_abs_diff_{kind}_{length}"]) < 1e-4
