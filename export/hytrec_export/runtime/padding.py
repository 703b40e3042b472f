"""Bucketed padding: requests of about one length get one length, and share a run of a graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS_PER_OCTAVE = 4
FINE_STEPS_PER_OCTAVE = 64
"""Where one process groups the requests of a batch itself, and pads them to the longest of a group."""


def bucket_length(length: int, maximum: int, *, steps_per_octave: int = STEPS_PER_OCTAVE) -> int:
    """Smallest bucket that holds `length` elements; 1 for none.

    With four steps buckets are the lengths 1 to 8, then four between a power of two and the next (10, 12, 14, 16, 20,
    ...), then `maximum`: less than a quarter of a run is padding. More steps leave less padding.

    Raises:
        ValueError: `length` is over `maximum`; what a client sends is checked before.
    """
    if length > maximum:
        raise ValueError(f"length {length} is over the largest bucket {maximum}")
    step = max(1, (1 << max(0, length - 1).bit_length()) // 2 // steps_per_octave)
    return min(-(-max(1, length) // step) * step, maximum)


def pad(values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Zeros after `values` up to `length`: (n,) -> (length,)."""
    padded = np.zeros(length, np.int64)
    padded[: len(values)] = values
    return padded
