from __future__ import annotations

import math

import numpy as np
import pytest

from hytrec_benchmarks.quality.paired import pooled, ratio, unpaired_ratio


def test_a_ratio_is_of_means_and_its_error_that_of_repeated_draws() -> None:
    """The error is the standard deviation of the ratio over many samples of users."""
    random = np.random.default_rng(0)
    theirs = random.gamma(2.0, size=(4_000, 500))
    ours = 1.2 * theirs + random.normal(size=theirs.shape)
    draws = [ratio(one, other) for one, other in zip(ours, theirs, strict=True)]
    values, errors = (np.array([draw[place] for draw in draws]) for place in (0, 1))
    assert values.mean() == pytest.approx(1.2, abs=0.002)
    assert errors.mean() == pytest.approx(values.std(), rel=0.05)


def test_users_in_pairs_make_a_smaller_error_than_users_apart() -> None:
    random = np.random.default_rng(1)
    theirs = random.gamma(2.0, size=500)
    ours = theirs + 0.1 * random.normal(size=500)
    assert ratio(ours, theirs).error < ratio(random.permutation(ours), theirs).error / 5
    assert ratio(theirs, theirs) == (1.0, 0.0)


def test_seeds_are_pooled_by_user() -> None:
    assert pooled([np.array([0.0, 1.0]), np.array([1.0, 1.0])]).tolist() == [0.5, 1.0]


def test_nothing_over_nothing_is_no_number() -> None:
    assert all(math.isnan(value) for value in ratio(np.ones(3), np.zeros(3)))


def test_without_pairs_the_error_is_that_of_two_samples() -> None:
    random = np.random.default_rng(2)
    draws = []
    for _ in range(2_000):
        ours, theirs = 1.5 * random.gamma(2.0, size=400), random.gamma(2.0, size=400)
        draws.append(unpaired_ratio(ours, float(theirs.mean()), float(theirs.std() / 20)))
    values, errors = (np.array([draw[place] for draw in draws]) for place in (0, 1))
    assert values.mean() == pytest.approx(1.5, abs=0.01)
    assert errors.mean() == pytest.approx(values.std(), rel=0.06)
