"""Training losses: cross-entropy of the next item, from the long vector and the user vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from hytrec.data.sampling import TrainingBatch
from hytrec.modeling.delta_rule import chunk_by_chunk
from hytrec.modeling.model import Encoded, HyTRec, Readout
from hytrec.modeling.sequences import running_maximum
from hytrec.training.carried import Carried

__all__ = ["Negatives", "encode_batch", "next_item_loss", "read_positions"]


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Negative items, shared by all positions of a batch.

    Args:
        rows: (n,) int64 item rows; all of 1..I means full softmax.
        log_expected: (n,) float, log of how often each row is expected among the drawn; None for full softmax.
    """

    rows: Tensor
    log_expected: Tensor | None

    @classmethod
    def drawn(cls, popularity: Tensor, *, count: int, among: Tensor | None = None) -> Self:
        """`count` rows by popularity (I,), with replacement; all items where `count` reaches I.

        Args:
            among: rows of the items of a popularity over 0, where others are never negatives.
        """
        items = popularity.numel()
        if count >= items and among is not None:
            return cls(rows=among, log_expected=popularity.new_zeros(among.numel()))
        if count >= items:
            return cls(rows=torch.arange(1, items + 1, device=popularity.device), log_expected=None)
        rows = torch.multinomial(popularity, count, replacement=True)
        share = popularity / popularity.sum()
        return cls(rows=rows + 1, log_expected=(share[rows] * count).log())


def next_item_loss(
    model: HyTRec, vectors: Tensor, targets: Tensor, negatives: Negatives, weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of the next item: vectors (n, D), targets (n,) item rows.

    Sampled softmax is corrected by the log of the sampling rate (logQ), so that it estimates the full one.

    Args:
        weights: (n,) float, what each target counts in the mean; None: all the same.
    """
    if negatives.log_expected is None:
        return _mean_cross_entropy(vectors @ model.item_table.weight[1:-1].T, targets - 1, weights)
    table = model.item_table
    scores = vectors @ table(negatives.rows).T - negatives.log_expected
    scores = scores.masked_fill(negatives.rows == targets.unsqueeze(-1), -torch.inf)
    own = (vectors * table(targets)).sum(-1, keepdim=True)
    return _mean_cross_entropy(torch.cat([own, scores], -1), torch.zeros_like(targets), weights)


def encode_batch(model: HyTRec, batch: TrainingBatch, state: Carried | None = None) -> Encoded:
    """The encoder over a batch, from an empty state or from what was carried to it; zeros where nothing reads it."""
    state = state or Carried.empty(model, batch.times.shape[0])
    if not model.read_long:
        nothing = state.memory.new_zeros(*batch.times.shape, model.width)
        return Encoded(
            outputs=nothing,
            memory=state.memory,
            event_times=running_maximum(batch.times, state.last_time),
            gap_s=torch.zeros_like(batch.times),
            real=batch.times > 0,
            last_inputs=nothing,
            before=state.memory[:, -1],
        )
    return model.encode_sequence(
        batch.item_rows, batch.behavior_rows, batch.times, state.memory, state.last_time, chunk_by_chunk
    )


def read_positions(
    model: HyTRec, batch: TrainingBatch, encoded: Encoded, positions: Tensor, *, summary_only: bool = False
) -> Readout:
    """Every user as `HyTRec.read` sees them after the events at `positions` (B, P), at the time of the next event.

    Returns:
        B * P rows.
    """
    features = model.features_at(
        encoded, batch.item_rows, batch.behavior_rows, batch.times, batch.next_times, positions
    )
    return model.read(features, summary_only=summary_only)


def _mean_cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor | None) -> Tensor:
    """0 where there is nothing to take the mean of."""
    if weights is None:
        return F.cross_entropy(logits, classes, reduction="sum") / max(1, classes.numel())
    losses = F.cross_entropy(logits, classes, reduction="none")
    return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
