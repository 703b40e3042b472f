"""The recurrence as the equations of `hytrec.modeling.delta_rule` stand."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

MIN_LOG_DECAY = -30.0


class DeltaRule(Protocol):
    """Any form of the recurrence."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs (B, T, H, V) and the state after the last step (B, H, K, V)."""
        ...


def reference(
    query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Step by step, as the equations stand: the truth that every faster form is tested against."""
    outputs = []
    for t in range(query.shape[1]):
        g = log_decay[:, t, :, None, None].exp()  # (B, H, 1, 1)
        k = key[:, t, :, :, None]  # (B, H, K, 1)
        v = value[:, t, :, None, :]  # (B, H, 1, V)
        u = beta[:, t, :, None, None] * (v - g * (k.mT @ state))
        state = g * state + k @ u
        outputs.append((query[:, t, :, None, :] @ state).squeeze(-2))
    output = torch.stack(outputs, 1) if outputs else value.new_zeros(value.shape)
    return output, state
