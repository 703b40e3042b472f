"""The short branch: softmax attention over the recent window. Notation as in `modeling.model`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hytrec.modeling.layers import GAP_BUCKETS, Dropout, SoftmaxLayer

__all__ = ["ShortBranch"]


class ShortBranch(nn.Module):
    """Softmax self-attention over the recent window and one null token that is always there."""

    def __init__(self, *, width: int, heads: int, layers: int, window: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.age = nn.Embedding(GAP_BUCKETS, width)
        self.slot = nn.Parameter(torch.randn(window, width) * 0.02)
        self.null = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(
            SoftmaxLayer(width=width, heads=heads, hidden=hidden, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.dropout = Dropout(dropout)

    def forward(
        self, events: Tensor, ages: Tensor, present: Tensor, *, summary_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Attend over the window.

        Args:
            events: (B, W, D). ages: buckets, (B, W) int64. present: (B, W) bool.
            summary_only: compute the null token's vector alone.

        Returns:
            tokens (B, W + 1, D), present (B, W + 1) bool, the null token last; of the summary only, (B, 1, D), (B, 1).
        """
        age = self.age(ages)
        null = self.null.expand(events.shape[0], 1, -1)
        slot = self.slot[self.slot.shape[0] - events.shape[1] :]  # training cuts the empty left part of a window off
        tokens = self.dropout(torch.cat([events + age + slot, null], 1))
        present = torch.cat([present, torch.ones_like(present[:, :1])], 1)
        *lower, top = self.layers
        for layer in lower:
            tokens = layer(tokens, tokens, present)
        queries = tokens[:, -1:] if summary_only else tokens
        return self.norm(top(queries, tokens, present)), present[:, -1:] if summary_only else present
