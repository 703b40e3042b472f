"""Operations over time and catalogue that every runtime can express: no loop over T, no data-dependent shape."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 16
_HALF = 2**25


def larger(x: Tensor, y: Tensor) -> Tensor:
    """Elementwise maximum of int64 tensors.

    onnxruntime up to 1.31 gets int64 maxima (Max, Clip, ReduceMax) over 2^31 wrong, an error of Eigen's (microsoft/
    onnxruntime#32475 fixes it); comparisons and Where are right.
    """
    return torch.where(x > y, x, y)


def running_maximum(times: Tensor, floor: Tensor) -> Tensor:
    """max(floor, times[0..t]) for every t: (B, T) int64 in 0..2^50, floor (B, 1) likewise -> (B, T) int64.

    ONNX has no cumulative maximum; masked maxima inside blocks of 16 and then over blocks are two reductions. Up to
    4,096 steps those inside compare more, over 13,000 larger blocks would compare less; a single step, which is padded
    to a block, costs little.
    """
    batch, steps = times.shape
    blocks = (steps + _BLOCK - 1) // _BLOCK
    padded = F.pad(times, (0, _BLOCK - 1))[:, : blocks * _BLOCK].reshape(batch, blocks, _BLOCK)
    inside = _causal_maximum(padded)  # (B, N, 16)
    whole = inside[:, :, -1]
    over = torch.cat([floor, larger(_causal_maximum(whole), floor)], 1)[:, :-1]  # before each block, (B, N)
    return larger(inside, over.unsqueeze(-1)).reshape(batch, blocks * _BLOCK)[:, :steps]


def _causal_maximum(x: Tensor) -> Tensor:
    """(..., C) int64 in 0..2^50 -> max over j <= t, (..., C).

    In two halves that fit 31 bits (see `larger`): the high bits first, then the low bits of those that reach them.
    """
    index = torch.arange(x.shape[-1], device=x.device)
    earlier = index.unsqueeze(0) <= index.unsqueeze(1)  # [t, j]
    high = x // _HALF
    low = x - high * _HALF
    highest = torch.where(earlier, high.unsqueeze(-2), 0).amax(-1)
    reached = earlier & (high.unsqueeze(-2) == highest.unsqueeze(-1))
    return highest * _HALF + torch.where(reached, low.unsqueeze(-2), 0).amax(-1)


def last_of(x: Tensor, count: Tensor) -> Tensor:
    """x at the last real step: x (B, T, D), count (B, 1) int64 -> (B, D); the first step where count is 0."""
    index = (count - 1).clamp(min=0).unsqueeze(-1).expand(-1, 1, x.shape[-1])
    return x.gather(1, index).squeeze(1)


def slide_window(window: Tensor, new: Tensor, count: Tensor) -> Tensor:
    """The last W of window (B, W) followed by the first `count` (B, 1) int64 of new (B, T): (B, W).

    Of vectors, (B, W, D) and (B, T, D), it is (B, W, D).
    """
    index = count + torch.arange(window.shape[1], device=window.device)  # (B, W)
    if window.dim() > 2:
        index = index.unsqueeze(-1).expand_as(window)
    return torch.cat([window, new], 1).gather(1, index)


def windows_at(values: Tensor, positions: Tensor, size: int) -> Tensor:
    """The last `size` of values (B, T) up to each of positions (B, P), right-aligned, padded with 0: (B * P, size)."""
    places = positions.unsqueeze(-1) + torch.arange(1 - size, 1, device=values.device)  # (B, P, size)
    spread = values.unsqueeze(1).expand(-1, positions.shape[1], -1)
    return torch.where(places >= 0, spread.gather(2, places.clamp(min=0)), 0).flatten(0, 1)


def hide_rows(scores: Tensor, excluded_rows: Tensor) -> Tensor:
    """Scores (B, I + 2) with -inf at rows 0 and I + 1, which are no items, and at excluded_rows (B, X) int64."""
    padding = excluded_rows.new_zeros(scores.shape[0], 1)
    hidden = torch.cat([padding, padding + (scores.shape[1] - 1), excluded_rows], 1)
    return scores.scatter(1, hidden, torch.full_like(hidden, -math.inf, dtype=scores.dtype))


def best_rows(scores: Tensor, excluded_rows: Tensor, *, count: int) -> Tensor:
    """Rows of the `count` largest of scores (B, I + 2), best first: (B, count) int64, 0 where fewer items are left.

    Rows 0 and I + 1 are no items; excluded_rows (B, X) int64 are left out too.
    """
    best, rows = torch.topk(hide_rows(scores, excluded_rows), count, dim=1)
    return torch.where(best > -math.inf, rows, 0)
