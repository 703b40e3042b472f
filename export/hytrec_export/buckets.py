"""Lengths that calls are padded to, so that calls of about one length share a run of a graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bucket_lengths(maximum: int) -> tuple[int, ...]:
    """Powers of two up to `maximum`, and `maximum` itself."""
    lengths = [1 << power for power in range(maximum.bit_length()) if 1 << power < maximum]
    return (*lengths, maximum)


def bucket_length(length: int, maximum: int) -> int:
    """Smallest bucket that holds `length` elements; 1 for none.

    Raises:
        ValueError: `length` is over `maximum`; what a client sends is checked before.
    """
    if length > maximum:
        raise ValueError(f"length {length} is over the largest bucket {maximum}")
    return min(1 << max(0, length - 1).bit_length(), maximum)


def pad(values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Zeros after `values` up to `length`: (n,) -> (length,)."""
    padded = np.zeros(length, np.int64)
    padded[: len(values)] = values
    return padded
