"""A causal softmax attention model in SASRec's shape (arXiv 1808.09781), of HyTRec's width and depth.

Weights are random: what is compared is the time, which does not depend on them. In a graph attention is one fused
operator that leaves out the future and holds no quadratic memory (three times as fast as `MultiHeadAttention` or ONNX's
own `Attention` at 10,000 events); elsewhere it is PyTorch's. The last layer asks for the last event alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hytrec.config import ModelConfig
from hytrec.modeling.layers import FeedForward

LAST_EVENTS = 10_000


class CausalLayer(nn.Module):
    """Pre-norm self-attention in which no event sees a later one, and a feed-forward block."""

    def __init__(self, *, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.projections = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=1e-6)
        self.ffn = FeedForward(width=width, hidden=hidden, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        query, key, value = self.projections(self.norm(x)).chunk(3, -1)
        return self._add(x, _attend(query, key, value, self.heads))

    def last(self, x: Tensor, count: Tensor) -> Tensor:
        """What the layer gives at the last of `count` (B, 1) events: (B, T, D) -> (B, 1, D)."""
        at = (count - 1).clamp(min=0)
        here = at.unsqueeze(-1).expand(-1, 1, x.shape[2])
        query, key, value = self.projections(self.norm(x)).chunk(3, -1)
        query, key, value = (self._split(part) for part in (query.gather(1, here), key, value))
        beyond = torch.arange(x.shape[1], device=x.device)[None, :] > at  # (B, T)
        logits = (query @ key.mT / math.sqrt(query.shape[-1])).masked_fill(beyond[:, None, None, :], -math.inf)
        read = torch.softmax(logits, -1) @ value
        return self._add(x.gather(1, here), read.transpose(1, 2).flatten(2))

    def _add(self, x: Tensor, read: Tensor) -> Tensor:
        x = x + self.output(read)
        return x + self.ffn(self.ffn_norm(x))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, K)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Causal attention, (B, T, D) each -> (B, T, D); one node com.microsoft::GroupQueryAttention in a graph."""
    if not torch.compiler.is_exporting():
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    batch, steps, width = query.shape
    last = torch.full((batch,), steps - 1, dtype=torch.int32)
    total = torch.full((1,), steps, dtype=torch.int32)
    kept = (batch, heads, steps, width // heads)
    read, _, _ = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        (query, key, value, None, None, last, total),
        {"num_heads": heads, "kv_num_heads": heads},
        dtypes=(query.dtype, key.dtype, value.dtype),
        shapes=((batch, steps, width), kept, kept),
        version=1,
    )
    return read


class Sasrec(nn.Module):
    """Item and position embeddings, causal layers, scores by the item table."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.items = nn.Embedding(config.items + 2, config.width)
        self.positions = nn.Embedding(LAST_EVENTS, config.width)
        self.layers = nn.ModuleList(
            CausalLayer(width=config.width, heads=config.heads, hidden=config.ffn_multiple * config.width)
            # As many as encode the history in HyTRec; its layers over the window have no counterpart, which is to
            # the peer's advantage.
            for _ in range(config.tadn_layers)
        )
        self.norm = nn.RMSNorm(config.width, eps=1e-6)

    def forward(self, item_rows: Tensor, count: Tensor, candidate_rows: Tensor) -> tuple[Tensor]:
        """Rows (B, T), padded at the end, their count (B, 1) and candidates (B, N) -> scores (B, N)."""
        age = (count - 1 - torch.arange(item_rows.shape[1], device=item_rows.device)[None, :]).clamp(0, LAST_EVENTS - 1)
        x = self.items(item_rows) + self.positions(age)
        *lower, top = self.layers
        for layer in lower:
            x = layer(x)
        user = self.norm(top.last(x, count))  # type: ignore[operator]
        return ((self.items(candidate_rows) * user).sum(-1),)


def new_sasrec(config: ModelConfig, *, seed: int = 0) -> Sasrec:
    """A model of HyTRec's width and as many layers, with random weights."""
    torch.manual_seed(seed)
    return Sasrec(config).eval().requires_grad_(False)
