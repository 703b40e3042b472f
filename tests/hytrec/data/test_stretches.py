from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.data.stretches import StretchStep, stretch_count, stretch_steps


def cut(lengths: list[int], max_stretch: int, max_lanes: int, seed: int = 0) -> tuple[list[StretchStep], list[int]]:
    """The steps, and where each history starts: 1,000 places apart."""
    starts = [100_000 * index for index in range(len(lengths))]
    steps = stretch_steps(
        np.array(starts, np.int64),
        np.array(lengths, np.int64),
        max_stretch=max_stretch,
        max_lanes=max_lanes,
        random=np.random.default_rng(seed),
    )
    return steps, starts


@given(st.lists(st.integers(1, 500), max_size=20), st.integers(1, 40), st.integers(1, 6), st.integers(0, 99))
def test_every_event_is_in_one_stretch_of_its_lane_and_in_order(
    lengths: list[int], max_stretch: int, max_lanes: int, seed: int
) -> None:
    steps, starts = cut(lengths, max_stretch, max_lanes, seed)
    ended: dict[int, int] = {}
    covered = dict.fromkeys(starts, 0)
    for step in steps:
        assert (np.diff(step.lanes) > 0).all()
        assert step.lanes.size <= max_lanes
        assert (step.lengths >= 1).all()
        assert (step.lengths <= max_stretch).all()
        for lane, start, length, fresh in zip(step.lanes, step.starts, step.lengths, step.fresh, strict=True):
            if fresh:
                assert start in covered
                assert covered[start] == 0
            else:
                assert ended[lane] == start
            covered[start // 100_000 * 100_000] += length
            ended[lane] = start + length
    assert list(covered.values()) == lengths
    if steps:
        assert steps[0].lanes.tolist() == list(range(max(max(step.lanes) for step in steps) + 1))


def test_stretches_of_a_history_are_nearly_equal_and_their_borders_move() -> None:
    borders = {tuple(int(step.lengths[0]) for step in cut([250], 100, 4, seed)[0]) for seed in range(30)}
    assert all(sum(lengths) == 250 and len(lengths) == 3 and lengths[1] in {83, 84} for lengths in borders)
    assert len(borders) > 5


def test_one_very_long_history_keeps_company_until_its_end() -> None:
    steps, _ = cut([10_000, *[150] * 400], 100, 50)
    assert len(steps) <= 110
    assert min(step.lanes.size for step in steps[:-10]) >= 8


def test_nobody_is_cut_into_nothing() -> None:
    assert cut([], 10, 3) == ([], [])


@pytest.mark.parametrize(("length", "count"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_as_few_stretches_as_hold_a_history(length: int, count: int) -> None:
    assert stretch_count(np.array([length]), 10).tolist() == [count]
    assert len(cut([length], 10, 3)[0]) == count
