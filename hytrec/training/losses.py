"""Training losses: cross-entropy of the next item, from the long vector, the user vector and the reranker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hytrec.data.sampling import TrainingBatch
from hytrec.modeling.delta_rule import chunk_by_chunk
from hytrec.modeling.model import Encoded, HyTRec, Readout
from hytrec.modeling.sequences import running_maximum
from hytrec.training.carried import Carried

__all__ = ["Negatives", "encode_batch", "next_item_loss", "read_positions", "rerank_loss"]

_IGNORED = -100

_Rows = TypeVar("_Rows", TrainingBatch, Encoded)


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
    def drawn(cls, popularity: Tensor, *, count: int) -> Self:
        """`count` rows by popularity (I,), with replacement; all items where `count` reaches I."""
        items = popularity.numel()
        if count >= items:
            return cls(rows=torch.arange(1, items + 1, device=popularity.device), log_expected=None)
        rows = torch.multinomial(popularity, count, replacement=True)
        share = popularity / popularity.sum()
        return cls(rows=rows + 1, log_expected=(share[rows] * count).log())


def next_item_loss(model: HyTRec, vectors: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
    """Mean cross-entropy of the next item: vectors (n, D), targets (n,) item rows.

    Sampled softmax is corrected by the log of the sampling rate (logQ), so that it estimates the full one.
    """
    if negatives.log_expected is None:
        return _mean_cross_entropy(vectors @ model.item_table.weight[1:-1].T, targets - 1)
    table = model.item_table
    scores = vectors @ table(negatives.rows).T - negatives.log_expected
    scores = scores.masked_fill(negatives.rows == targets.unsqueeze(-1), -torch.inf)
    own = (vectors * table(targets)).sum(-1, keepdim=True)
    return _mean_cross_entropy(torch.cat([own, scores], -1), torch.zeros_like(targets))


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


def rerank_loss(model: HyTRec, batch: TrainingBatch, encoded: Encoded, *, candidates: int, positions: int) -> Tensor:
    """Mean cross-entropy of the next item among itself and retrieved items, at some of the batch's positions.

    Gradients reach the reranker alone: the readout and the item table are constants here.

    Args:
        candidates: how many retrieved items compete with the next item.
        positions: about how many positions of the whole batch are taken, the same number of every history.
    """
    device = batch.times.device
    users = torch.randperm(batch.times.shape[0], device=device)[:positions]
    batch, encoded = _rows_of(batch, users), _rows_of(encoded, users)
    places = batch.positions[:, : max(1, positions // users.numel())]
    targets = batch.targets.gather(1, places).reshape(-1, 1)
    with torch.no_grad():
        readout = read_positions(model, batch, encoded, places)
        past = torch.arange(batch.times.shape[1], device=device) <= places.unsqueeze(-1)
        passed = torch.where(past, batch.item_rows.unsqueeze(1), 0).flatten(0, 1)
        retrieved = model.retrieve(readout, torch.cat([passed, targets], 1))
        drawn = retrieved[:, torch.randperm(retrieved.shape[1], device=device)[:candidates]]
    with _frozen(model.item_table):
        scores = model.correct(readout, torch.cat([targets, drawn], 1))
    # Places without a next item are passed over, not cut out: their number is known to the device alone.
    scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(drawn == 0, -torch.inf)], 1)
    known = targets.squeeze(1) > 0
    classes = torch.where(known, 0, _IGNORED)
    return F.cross_entropy(scores, classes, reduction="sum", ignore_index=_IGNORED) / known.sum().clamp(min=1)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Keep gradients from the parameters of a module that is trained otherwise."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _rows_of(values: _Rows, index: Tensor) -> _Rows:
    """Some rows of the batch axis of every tensor of a dataclass."""
    tensors = {field.name: getattr(values, field.name) for field in fields(values)}
    return replace(values, **{name: tensor[index] for name, tensor in tensors.items() if tensor is not None})


def _mean_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """0 where there is nothing to take the mean of."""
    return F.cross_entropy(logits, classes, reduction="sum") / max(1, classes.numel())
