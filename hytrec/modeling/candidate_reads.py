"""What many candidates read of one user: the user's side of a product is multiplied out first, once for all of them.

Notation as in `hytrec.modeling.model`. Products are associative: (q S) W = q (S W) and (h W_q) k^T = h (W_q k^T). The
right sides need fewer products of every candidate, and none of its vectors is cut into heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hytrec.modeling.layers import MatrixProduct, SoftmaxAttention, l2_normalize

__all__ = ["CandidateAttention", "recall_many"]


def _by_head(matrix: Tensor, heads: int) -> Tensor:
    """(H * K, D) -> (H, K, D)."""
    return matrix.unflatten(0, (heads, -1))  # type: ignore[no-any-return]


class CandidateAttention(SoftmaxAttention):
    """Softmax attention of many vectors over few, equal to its base class's; of that it has the weights."""

    def forward(self, x: Tensor, context: Tensor, present: Tensor) -> Tensor:
        """x (B, N, D) reads context (B, M, D) where present (B, M) bool, at least one of them True: (B, N, D)."""
        keys, values = self._split(self.key(context)), self._split(self.value(context))  # (B, H, M, K)
        keys = self.product(keys / math.sqrt(keys.shape[-1]), _by_head(self.query.matrix, self.heads)).flatten(1, 2)
        values = self.product(values, _by_head(self.output.matrix.T, self.heads)).flatten(1, 2)  # (B, H * M, D)
        absent = torch.where(present, 0.0, -math.inf)
        logits = self.product(x, keys.mT).unflatten(-1, (self.heads, -1)) + absent[:, None, None]  # (B, N, H, M)
        return self.product(torch.softmax(logits, -1).flatten(2), values)  # type: ignore[no-any-return]


def recall_many(memory: Tensor, queries: Tensor, read: Tensor, product: MatrixProduct) -> Tensor:
    """W of `recall(memory, queries)`: memory (B, H, K, V), queries (B, N, D) -> (B, N, D).

    Args:
        read: W, (D, D).
        product: multiplies memory and W.
    """
    heads = memory.shape[1]
    reads = product(memory, _by_head(read.T, heads)).flatten(1, 2)  # (B, H * K, D)
    return l2_normalize(queries.unflatten(-1, (heads, -1))).flatten(-2) @ reads  # type: ignore[no-any-return]
