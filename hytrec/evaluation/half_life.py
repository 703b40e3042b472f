"""How long a trained model remembers: the half-life of every head's memory, in events of real histories."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hytrec.data.histories import History
from hytrec.evaluation.evaluate import padded
from hytrec.modeling.delta_rule import chunk_by_chunk
from hytrec.modeling.model import HyTRec

__all__ = ["memory_half_lives"]


def memory_half_lives(model: HyTRec, histories: Sequence[History]) -> list[list[float]]:
    """ln 2 / -mean(log g) of every layer and head over all events but a history's first: (L, H), in events.

    Infinite where nothing decays.
    """
    sums, events = torch.zeros(model.tadn_layers, model.heads, dtype=torch.float64), 0
    with torch.inference_mode():
        for history in histories:
            seen = mean_log_decays(model, history).cpu()
            sums += seen * (len(history) - 1)
            events += len(history) - 1
    means = (sums / max(1, events)).tolist()
    return [[math.log(2) / -mean if mean < 0 else math.inf for mean in layer] for layer in means]


def log_decays(model: HyTRec, history: History) -> Tensor:
    """log g of every layer, head and event: (L, H, T)."""
    layers: list[Tensor] = []

    def listening(
        query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        layers.append(log_decay[0].T)
        return chunk_by_chunk(query, key, value, beta, log_decay, state)

    batch = padded([history], model.norm.weight.device)
    model.encode(model.empty_state(1), batch.item_rows, batch.behavior_rows, batch.times, listening)
    return torch.stack(layers)


def mean_log_decays(model: HyTRec, history: History) -> Tensor:
    """Mean log g after the first event: (L, H) float64; zeros for a history of one event."""
    later = log_decays(model, history)[:, :, 1:].double()
    return later.mean(-1) if later.shape[-1] else later.sum(-1)
