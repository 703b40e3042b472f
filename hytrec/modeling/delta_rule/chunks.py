"""Execution cut into chunks and joined again, and the decay between the steps of a chunk."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def in_chunks(x: Tensor, chunks: int, size: int) -> Tensor:
    """(B, T, H, F) -> (B, H, N, C, F), T <= N C, padded with zeros: beta = 0 and log g = 0 leave the state alone."""
    batch, steps, heads, features = x.shape
    padded = F.pad(x, (0, 0, 0, 0, 0, chunks * size - steps))
    return padded.reshape(batch, chunks, size, heads, features).permute(0, 3, 1, 2, 4)


def out_of_chunks(x: Tensor, steps: int) -> Tensor:
    """(B, H, N, C, F) -> (B, T, H, F)."""
    batch, heads, chunks, size, features = x.shape
    return x.permute(0, 2, 3, 1, 4).reshape(batch, chunks * size, heads, features)[:, :steps]


def decay_between(log_decays: Tensor, lower: Tensor) -> Tensor:
    """Decay from step j to step t: log_decays (..., C, 1) -> (..., C, C) at [t, j], 0 above the diagonal.

    exp of the sum over j < i <= t, a masked cumulative sum and never a difference of two: under strong decay that
    loses all digits.

    Args:
        lower: ones on and below the diagonal, zeros above, (C, C).
    """
    return (lower.tril(-1) * log_decays).cumsum(-2).exp() * lower
