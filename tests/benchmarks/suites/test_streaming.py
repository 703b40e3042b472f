from __future__ import annotations

import numpy as np
import pytest

from hytrec.config import ModelConfig
from hytrec.signature import EVENT_COUNT, LONG_VECTOR, MEMORY
from hytrec_benchmarks.suites.streaming import Outcome, score_difference, state_difference
from hytrec_export.runtime.model_chain import empty_state


def outcome(config: ModelConfig, **changed: float) -> Outcome:
    state = empty_state(config.sizes(), 1)
    for name, value in changed.items():
        state[name].flat[-1] = value
    return Outcome(state=state, scores=np.zeros((1, 3)))


def test_the_largest_score_difference_of_any_pair_counts() -> None:
    scores = [np.array([[0.0, 1.0]]), np.array([[0.25, 1.0]], np.float32), np.array([[-0.5, 1.0]])]
    assert score_difference([Outcome(state={}, scores=each) for each in scores]) == 0.75


@pytest.mark.parametrize(
    ("name", "values", "difference"),
    [
        (MEMORY.name, (0.25, 0.5), 0.25),
        (MEMORY.name, (3.0, 4.0), 0.25),
        (LONG_VECTOR.name, (-8.0, 8.0), 2.0),
        (EVENT_COUNT.name, (10_000, 10_001), 1.0),
    ],
)
def test_float_tensors_differ_in_their_own_scale_and_whole_numbers_in_full(
    config: ModelConfig, name: str, values: tuple[float, float], difference: float
) -> None:
    assert state_difference([outcome(config, **{name: value}) for value in values]) == difference
