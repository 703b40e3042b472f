"""The reranker: candidates attend to the long memory and to the window. Notation as in `hytrec.modeling.model`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hytrec.modeling.layers import Dropout, GatedFusion, MixtureOfExperts, SoftmaxAttention, recall
from hytrec.modeling.states import Readout

__all__ = ["Reranker"]


class Reranker(nn.Module):
    """A correction of the retriever's score for every candidate.

    Args:
        width: D. heads: H. experts: E.
        read_long, read_short: which memory is read; without either nothing is corrected.
    """

    def __init__(
        self, *, width: int, heads: int, experts: int, dropout: float, read_long: bool, read_short: bool
    ) -> None:
        super().__init__()
        self.read_long, self.read_short = read_long, read_short
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width, bias=False)
        self.read = nn.Linear(width, width, bias=False)
        self.attention = SoftmaxAttention(width=width, heads=heads)
        self.fusion = GatedFusion(width=width)
        self.expert_norm = nn.RMSNorm(width, eps=1e-6)
        self.mixture = MixtureOfExperts(width=width, experts=experts)
        self.score_norm = nn.RMSNorm(width, eps=1e-6)
        self.score = nn.Linear(width, 1)
        self.dropout = Dropout(dropout)

    def forward(self, candidates: Tensor, readout: Readout) -> Tensor:
        """Rows of the item table (B, N, D) -> correction (B, N)."""
        if not (self.read_long or self.read_short):
            return candidates.new_zeros(candidates.shape[:-1])
        h = self.norm(candidates)
        long = short = torch.zeros_like(h)
        if self.read_long:
            long = self.read(recall(readout.memory, self.query(h)))
        if self.read_short:
            short = self.attention(h, readout.tokens, readout.present)
        fused = self.fusion(long, short) if self.read_long and self.read_short else long + short
        x = self.dropout(fused + h * (fused + readout.user.unsqueeze(1)))  # products: agreement of candidate and user
        x = x + self.dropout(self.mixture(self.expert_norm(x)))
        return self.score(self.score_norm(x)).squeeze(-1)  # type: ignore[no-any-return]

    def weigh(self, weight: float) -> None:
        """Multiply every correction by a number, in place."""
        with torch.no_grad():
            self.score.weight.mul_(weight)
            self.score.bias.mul_(weight)
