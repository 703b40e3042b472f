"""Neighbors in the reranker: how near a candidate is to the recent items. Notation as in `modeling.model`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["HALF_LIVES", "NeighborScore", "fading_of"]

HALF_LIVES = 2
"""How many half-lives the window is read with, equal ones included."""


def fading_of(half_lives: Sequence[float], *, window: int) -> Tensor:
    """0.5^(rank / half_life) of every place of the window, whose last has rank 0: (W, len(half_lives))."""
    ranks = torch.arange(window).flip(0).unsqueeze(1)
    return 0.5 ** (ranks / torch.tensor(half_lives))


class NeighborScore(nn.Module):
    """strength * mean over h of log(1 + k_h(c) / softening), with k_h(c) = sum_j 0.5^(rank_j / half_life_h) S[c, i_j].

    S is the proximity of items (`hytrec.data.proximity`), cut to the K largest of every row; rank_j counts events back
    from the last. Nothing here is learned by gradients: S is counted, the rest chosen on the validation part.

    Args:
        items: I.
        neighbors: K.
        window: W.
    """

    ids: Tensor
    weights: Tensor
    fading: Tensor
    softening: Tensor
    strength: Tensor

    def __init__(self, *, items: int, neighbors: int, window: int) -> None:
        super().__init__()
        self.register_buffer("ids", torch.zeros(items + 2, neighbors, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(items + 2, neighbors))
        self.register_buffer("fading", torch.ones(window, HALF_LIVES))
        self.register_buffer("softening", torch.ones(1))
        self.register_buffer("strength", torch.zeros(1))

    def fill(self, ids: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> None:
        """Take over a table of `hytrec.data.proximity.neighbor_table`, in place: two of (I + 2, K)."""
        self.ids.copy_(torch.from_numpy(ids))
        self.weights.copy_(torch.from_numpy(weights))

    def choose(self, *, strength: float, softening: float, half_lives: Sequence[float]) -> None:
        """Set lambda, eps and the half-lives in events (`HALF_LIVES` of them), in place."""
        self.fading.copy_(fading_of(half_lives, window=self.fading.shape[0]))
        self.softening.fill_(softening)
        self.strength.fill_(strength)

    def forward(self, candidate_rows: Tensor, recent_items: Tensor) -> Tensor:
        """Candidate rows (B, N) and recent_items (B, W), both int64, 0 for an empty place -> (B, N)."""
        nearness = self.nearness(candidate_rows, recent_items, self.fading)
        return self.strength * torch.log(1 + nearness / self.softening).mean(1)

    def nearness(self, candidate_rows: Tensor, recent_items: Tensor, fading: Tensor) -> Tensor:
        """k of every candidate, (B, H, N): a plane for each column of fading (W, H); the others as `forward`'s.

        The window is written into a table of the catalogue for every user (at a million items and two half-lives 8 MB
        and 3 ms, half of what comparing all ids takes), which is then read at every neighbor.
        """
        fading = fading[fading.shape[0] - recent_items.shape[1] :].T
        fading = torch.where((recent_items > 0).unsqueeze(1), fading, 0.0)  # (B, H, W)
        # An item that stands in the window several times gets its whole sum at each place, so that the places may be
        # written in any order: TensorRT has no scatter that adds.
        same = recent_items.unsqueeze(2) == recent_items.unsqueeze(1)  # (B, W, W)
        sums = fading @ same.to(fading.dtype)
        ids = nn.functional.embedding(candidate_rows, self.ids).flatten(1).to(torch.int64)  # (B, N * K)
        weights = nn.functional.embedding(candidate_rows, self.weights).to(fading.dtype)  # float16 in some exports
        planes = []
        for own in sums.unbind(1):  # one by one: no copy of the ids for each, and no product that spreads the weights
            table = own.new_zeros(own.shape[0], self.ids.shape[0]).scatter(1, recent_items, own)
            found = table.gather(1, ids).unflatten(1, (-1, self.ids.shape[1]))
            planes.append((found * weights).sum(-1))
        return torch.stack(planes, 1)
