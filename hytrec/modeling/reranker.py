"""The reranker: candidates attend to the long memory and to the window. Notation as in `hytrec.modeling.model`."""

from __future__ import annotations

import copy
from enum import StrEnum

import torch
from torch import Tensor, nn

from hytrec.modeling.candidate_reads import CandidateAttention, recall_many
from hytrec.modeling.layers import Dropout, GatedFusion, MatrixProduct, MixtureOfExperts, Projection
from hytrec.modeling.states import Readout

__all__ = ["Reranker", "RerankerPart"]


class RerankerPart(StrEnum):
    """What reranking adds to the retriever's score: the neighbors' score, and a correction made of the others."""

    NEIGHBORS = "neighbors"
    MEMORY = "memory"
    WINDOW = "window"
    EXPERTS = "experts"


class Reranker(nn.Module):
    """A correction of the retriever's score for every candidate.

    Args:
        width: D. heads: H. mixture: the experts.
        read_long, read_short: which memory is read; without either nothing is corrected.
    """

    def __init__(
        self, *, width: int, heads: int, mixture: MixtureOfExperts, dropout: float, read_long: bool, read_short: bool
    ) -> None:
        super().__init__()
        memories = {RerankerPart.MEMORY: read_long, RerankerPart.WINDOW: read_short}
        read = tuple(part for part, is_read in memories.items() if is_read)
        self.parts: tuple[RerankerPart, ...] = (*read, RerankerPart.EXPERTS) if read else ()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width, bias=False)
        self.read = Projection(width, width, bias=False)
        self.product = MatrixProduct()
        self.attention = CandidateAttention(width=width, heads=heads)
        self.fusion = GatedFusion(width=width)
        self.expert_norm = nn.RMSNorm(width, eps=1e-6)
        self.mixture = mixture
        self.score_norm = nn.RMSNorm(width, eps=1e-6)
        self.score = nn.Linear(width, 1)
        self.dropout = Dropout(dropout)

    def forward(self, candidates: Tensor, readout: Readout) -> Tensor:
        """Rows of the item table (B, N, D) -> correction (B, N)."""
        reads_memory, reads_window = RerankerPart.MEMORY in self.parts, RerankerPart.WINDOW in self.parts
        if not (reads_memory or reads_window):
            return candidates.new_zeros(candidates.shape[:-1])
        h = self.norm(candidates)
        long = short = torch.zeros_like(h)
        if reads_memory:
            long = recall_many(readout.memory, self.query(h), self.read.matrix, self.product)
        if reads_window:
            short = self.attention(h, readout.tokens, readout.present)
        fused = self.fusion(long, short) if reads_memory and reads_window else long + short
        x = self.dropout(fused + h * (fused + readout.user.unsqueeze(1)))  # products: agreement of candidate and user
        if RerankerPart.EXPERTS in self.parts:
            x = x + self.dropout(self.mixture(self.expert_norm(x)))
        return self.score(self.score_norm(x)).squeeze(-1)  # type: ignore[no-any-return]

    def corrects(self) -> bool:
        """Whether any correction can be other than zero."""
        return any(bool(parameter.any()) for parameter in (self.score.weight, self.score.bias))

    def without(self, *parts: RerankerPart) -> Reranker:
        """The same weights, some parts left out."""
        other = copy.copy(self)
        other.parts = tuple(part for part in self.parts if part not in parts)
        return other

    def weigh(self, weight: float) -> None:
        """Multiply every correction by a number, in place."""
        with torch.no_grad():
            self.score.weight.mul_(weight)
            self.score.bias.mul_(weight)
