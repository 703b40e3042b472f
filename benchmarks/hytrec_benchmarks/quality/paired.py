"""Ratios and differences of means over the same users, pooled over seeds, with their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Estimate", "pooled", "ratio", "unpaired_ratio"]

FloatArray = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


def pooled(values: Sequence[FloatArray]) -> FloatArray:
    """The mean over seeds of every user: S arrays of (users,) -> (users,)."""
    return np.mean(np.stack(values), 0)  # type: ignore[no-any-return]


def ratio(ours: FloatArray, theirs: FloatArray) -> Estimate:
    """Mean of one over mean of the other, paired over users (delta method): two of (users,).

    Both NaN where theirs is 0 for everybody.
    """
    below = theirs.mean()
    if below == 0:
        return Estimate(float("nan"), float("nan"))
    value = ours.mean() / below
    residual = ours - value * theirs
    return Estimate(float(value), float(residual.std() / np.sqrt(ours.size) / below))


def unpaired_ratio(ours: FloatArray, theirs: float, error: float) -> Estimate:
    """Mean of ours (users,) over a mean of which the standard error is known alone; as if users were different ones.

    For models that rank the same users that is too large an error rather than too small a one.
    """
    value = float(ours.mean() / theirs)
    own = ours.std() / np.sqrt(ours.size) / theirs
    return Estimate(value, float(np.hypot(own, value * error / theirs)))
