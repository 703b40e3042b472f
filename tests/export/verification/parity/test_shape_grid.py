from __future__ import annotations

import numpy as np
import pytest

from hytrec_export.runtime.model_chain import split_every
from hytrec_export.settings import Limits, ServingSettings
from hytrec_export.verification.parity.shape_grid import InputGenerator, ShapeCase, corners

AXES = ("batch", "events", "candidates", "excluded")


def test_the_grid_has_each_axis_at_its_smallest_and_largest() -> None:
    grid = corners(Limits(max_events=5_000, max_candidates=300, max_excluded=70, max_batch=12))
    largest = {"batch": 12, "events": 5_000, "candidates": 300, "excluded": 70}
    for axis in AXES:
        sizes = {getattr(corner, axis) for corner in grid}
        assert min(sizes) == 1
        assert max(sizes) == largest[axis]
    assert {1, 2, 63, 64, 65} <= {corner.events for corner in grid}
    assert len(set(grid)) == len(grid)


def test_the_grid_stays_within_the_limits() -> None:
    grid = corners(Limits(max_events=1, max_candidates=1, max_excluded=0, max_batch=1))
    assert grid == [ShapeCase(batch=1, events=1, candidates=1, excluded=1)]


def test_a_corner_says_its_sizes() -> None:
    assert str(ShapeCase(batch=8, events=2048, candidates=500, excluded=1)) == "(B=8, T=2048, N=500, X=1)"


@pytest.fixture
def maker(settings: ServingSettings) -> InputGenerator:
    return InputGenerator(settings, behaviors=2)


def test_inputs_have_the_corners_sizes(maker: InputGenerator, settings: ServingSettings) -> None:
    corner = ShapeCase(batch=6, events=40, candidates=7, excluded=3)
    state, events = maker.inputs(corner)
    assert state["memory"].shape == (6, 2, 2, 4, 4)
    assert state["memory"].dtype == np.float32
    assert {values.shape for values in events.values()} == {(6, 40)}
    now, candidates, excluded = maker.question(corner, state)
    assert (now.shape, candidates.shape, excluded.shape) == ((6, 1), (6, 7), (6, 3))
    assert now.min() >= 1
    assert candidates.max() <= settings.items + 1


def test_inputs_are_of_new_and_old_users_with_full_empty_and_padded_rows(maker: InputGenerator) -> None:
    state, events = maker.inputs(ShapeCase(batch=40, events=30, candidates=1, excluded=1))
    lengths = (events["event_times"] > 0).sum(1)
    assert lengths[:2].tolist() == [30, 0]
    assert len(set(lengths.tolist())) > 5
    padding = np.arange(30) >= lengths[:, None]
    assert not events["item_rows"][padding].any()
    assert (events["event_times"][~padding] > 0).all()
    new = state["last_time"][:, 0] == 0
    assert new.any()
    assert not new.all()
    assert not state["memory"][new].any()
    assert state["memory"][~new].any(axis=(1, 2, 3, 4)).all()
    seen = state["window_times"] > 0
    assert (np.diff(seen.astype(int), axis=1) >= 0).all()  # right-aligned


def test_histories_jump_back_stand_still_and_pass_2038(maker: InputGenerator) -> None:
    history = maker.history(200)
    gaps = np.diff(history.times)
    assert (gaps < 0).any()
    assert (gaps == 0).any()
    assert (gaps > 9 * 365 * 86_400).any()
    assert history.times.max() > 2**31
    assert history.item_rows.max() == 21  # the unknown item


def test_habits_repeat_one_item_and_two_in_turn(maker: InputGenerator) -> None:
    one, two = maker.habits(9)
    assert len(set(one.item_rows.tolist())) == 1
    assert (two.item_rows[2:] == two.item_rows[:-2]).all()


def test_the_same_inputs_every_time(settings: ServingSettings) -> None:
    one, other = (InputGenerator(settings, behaviors=2).history(50) for _ in range(2))
    assert [part.times.tolist() for part in split_every(one, 7)] == [
        part.times.tolist() for part in split_every(other, 7)
    ]
