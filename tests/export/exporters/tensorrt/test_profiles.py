from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.contract import Model, Sizes
from hytrec.signature import ENCODER, GRAPHS, RERANKER, RETRIEVER
from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.profiles import SHORT_EVENTS, Range, profiles_of
from hytrec_export.runtime.padding import bucket_length
from hytrec_export.settings import Limits

SIZES = Sizes(layers=2, heads=2, key_size=4, value_size=4, width=8, window=4, retrieved=20)
LIMITS = st.builds(
    Limits,
    max_events=st.integers(1, 20_000),
    max_candidates=st.integers(1, 2_000),
    max_excluded=st.integers(0, 5_000),
    max_batch=st.integers(1, 128),
)


@given(limits=LIMITS)
def test_every_profile_rises_and_follows_the_table(limits: Limits) -> None:
    for model in GRAPHS:
        for profile in profiles_of(model, sizes=SIZES, limits=limits):
            assert list(profile) == list(model.input_names())
            for tensor in model.inputs:
                shapes = profile[tensor.name]
                for axis, low, usual, high in zip(
                    (-1, *SIZES.shape(tensor)), shapes.minimum, shapes.optimum, shapes.maximum, strict=True
                ):
                    assert 1 <= low <= usual <= high
                    assert low == (1 if axis < 0 else axis)
                    assert axis < 0 or high == axis


@given(limits=LIMITS, data=st.data())
def test_every_call_that_the_server_admits_fits_a_profile(limits: Limits, data: st.DataObject) -> None:
    events = bucket_length(data.draw(st.integers(0, limits.max_events)), limits.max_events)
    excluded_limit = limits.max_excluded + SIZES.window
    excluded = bucket_length(data.draw(st.integers(0, excluded_limit)), excluded_limit)
    candidates = bucket_length(data.draw(st.integers(1, limits.max_candidates)), limits.max_candidates)
    for model, tensor, length in (
        (ENCODER, "item_rows", events),
        (RETRIEVER, "excluded_rows", excluded),
        (RERANKER, "candidate_rows", candidates),
        (RERANKER, "candidate_rows", SIZES.retrieved),
    ):
        shapes = [profile[tensor] for profile in profiles_of(model, sizes=SIZES, limits=limits)]
        assert any(one.minimum[1] <= length <= one.maximum[1] for one in shapes)


def test_the_encoder_has_a_profile_for_one_event_and_one_for_many() -> None:
    short, any_length = profiles_of(ENCODER, sizes=SIZES, limits=Limits())
    assert short["item_rows"].to_dict() == {"min": [1, 1], "opt": [8, 1], "max": [64, SHORT_EVENTS]}
    assert any_length["item_rows"].to_dict() == {"min": [1, 1], "opt": [8, 1_024], "max": [64, 10_240]}
    assert short["memory"].to_dict() == {"min": [1, 2, 2, 4, 4], "opt": [8, 2, 2, 4, 4], "max": [64, 2, 2, 4, 4]}


@pytest.mark.parametrize("model", [RETRIEVER, RERANKER], ids=lambda model: model.name)
def test_the_others_have_one(model: Model) -> None:
    assert len(profiles_of(model, sizes=SIZES, limits=Limits())) == 1


@pytest.mark.parametrize("numbers", [(0, 1, 2), (2, 1, 3), (1, 4, 3), (3, 3, 2)])
def test_a_range_that_does_not_rise_is_refused(numbers: tuple[int, int, int]) -> None:
    low, usual, high = numbers
    message = (
        f"^a profile from {low} over {usual} to {high} is impossible; it must rise and begin at 1 or more, "
        "check the limits of the build$"
    )
    with pytest.raises(BuildError, match=message):
        Range(*numbers)
