"""The window sum: recent items' own rows, added to the user vector. Notation as in `modeling.model`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hytrec.modeling.layers import GAP_BUCKETS

__all__ = ["WindowSum"]


class WindowSum(nn.Module):
    """sum over the window of a_j E[i_j], with a_j = exp(slot_j + age[bucket of now - time_j]).

    A direct path from what a user had last to the scores, which the layers would have to learn. The weights are those
    of a half-life in events at first, and are learned.

    Args:
        window: W.
    """

    def __init__(self, *, window: int) -> None:
        super().__init__()
        self.slot = nn.Parameter(torch.empty(window))
        self.age = nn.Parameter(torch.zeros(GAP_BUCKETS))
        self.begin(scale=1.0, half_life=2.0)

    @torch.no_grad()
    def begin(self, *, scale: float, half_life: float) -> None:
        """Weigh the last event by `scale`, half of it `half_life` events earlier, whatever the age; in place."""
        ranks = torch.arange(self.slot.numel(), dtype=self.slot.dtype).flip(0)
        self.slot.copy_(math.log(scale) - ranks * (math.log(2) / half_life))
        self.age.zero_()

    def forward(self, rows: Tensor, ages: Tensor, present: Tensor) -> Tensor:
        """Item rows' vectors (B, W, D), buckets of ages (B, W) int64, present (B, W) bool -> (B, D).

        A window may be cut at its left end.
        """
        slot = self.slot[self.slot.shape[0] - rows.shape[1] :]
        age = nn.functional.embedding(ages, self.age.unsqueeze(1)).squeeze(-1)
        weights = torch.where(present, torch.exp(slot + age), 0.0)
        return (weights.unsqueeze(1) @ rows).squeeze(1)
