"""Chunks one after the other; shapes as in `hytrec.modeling.delta_rule`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hytrec.modeling.delta_rule.chunks import decay_between, in_chunks, out_of_chunks

EAGER_CHUNK = 32
"""Largest chunk: every step inside a chunk and every chunk is paid for."""


def chunk_by_chunk(
    query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Chunks one after the other, each by a triangular solve: the fastest form in eager PyTorch, for training."""
    chunks = _Chunks.cut(key, value, beta, log_decay)
    updates, states = chunks.solve(state)
    queries = in_chunks(query, chunks.keys.shape[2], chunks.size)
    inside = (queries @ chunks.keys.mT * chunks.decay) @ torch.stack(updates, 2)
    before = chunks.from_start * (queries @ torch.stack(states[:-1], 2))
    return out_of_chunks(inside + before, query.shape[1]), states[-1]


def memory_at(positions: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor) -> Tensor:
    """Memory S_p after the step at each position p: (B, P) int64 -> (B, P, H, K, V); for training."""
    chunks = _Chunks.cut(key, value, beta, log_decay)
    updates, states = chunks.solve(state)
    user = torch.arange(positions.shape[0], device=positions.device)[:, None]
    chunk, step = positions // chunks.size, positions % chunks.size

    def of_chunk(x: Tensor) -> Tensor:
        """(B, H, N, ...) -> (B, P, H, ...)."""
        return x.movedim(2, 1)[user, chunk]

    def of_step(x: Tensor) -> Tensor:
        """(B, H, N, C, F) -> (B, P, H, F)."""
        return x.permute(0, 2, 3, 1, 4)[user, chunk, step]

    weighted = of_chunk(chunks.keys) * of_step(chunks.decay).unsqueeze(-1)
    written = weighted.mT @ of_chunk(torch.stack(updates, 2))
    return written + of_step(chunks.from_start).unsqueeze(-1) * of_chunk(torch.stack(states[:-1], 2))


@dataclass(frozen=True, kw_only=True)
class _Chunks:
    """The steps in chunks of C, each solved but for the state before it: u = own - carried S.

    Args:
        keys: (B, H, N, C, K).
        decay: decay from step j to step t, (B, H, N, C, C) at [t, j], 0 above the diagonal.
        from_start: decay from the start of the chunk through each step, (B, H, N, C, 1).
        own: (B, H, N, C, V). carried: (B, H, N, C, K).
    """

    size: int
    keys: Tensor
    decay: Tensor
    from_start: Tensor
    own: Tensor
    carried: Tensor

    @classmethod
    def cut(cls, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor) -> Self:
        size = min(EAGER_CHUNK, 1 << max(0, key.shape[1] - 1).bit_length())
        count = -(-key.shape[1] // size)
        keys, values = in_chunks(key, count, size), in_chunks(value, count, size)
        betas, log_decays = (in_chunks(x.unsqueeze(-1), count, size) for x in (beta, log_decay))
        decay = decay_between(log_decays, keys.new_ones(size, size).tril())
        from_start = log_decays.cumsum(-2).exp()
        right = torch.cat([betas * values, betas * from_start * keys], -1)
        solved = torch.linalg.solve_triangular(betas * (keys @ keys.mT) * decay, right, upper=False, unitriangular=True)
        own, carried = solved.split([values.shape[-1], keys.shape[-1]], -1)
        return cls(size=size, keys=keys, decay=decay, from_start=from_start, own=own, carried=carried)

    def solve(self, state: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Updates of every chunk, N of (B, H, C, V), and the state before each and after the last, N + 1."""
        updates, states = [], [state]
        written = (self.keys * self.decay[..., -1, :].unsqueeze(-1)).mT.unbind(2)
        passed = self.from_start[..., -1:, :].unbind(2)
        for own, carried, write, decay in zip(self.own.unbind(2), self.carried.unbind(2), written, passed, strict=True):
            updates.append(own - carried @ states[-1])
            states.append(decay * states[-1] + write @ updates[-1])
        return updates, states
