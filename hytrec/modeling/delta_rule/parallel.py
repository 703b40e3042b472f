"""All chunks at once, for export; shapes as in `hytrec.modeling.delta_rule`."""

from __future__ import annotations

import torch
from torch import Tensor

from hytrec.modeling.delta_rule.chunks import decay_between, in_chunks, out_of_chunks

CHUNK = 64
"""Largest chunk."""


def chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    state: Tensor,
    *,
    max_chunks: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Matrix products only: WY form inside chunks, a log-depth scan over the chunks. T >= 1.

    Up to 64 steps are one chunk of their own length, for which the scan has nothing to do; a longer sequence is cut
    into chunks of 64.

    Args:
        max_chunks: bound on ceil(T / 64); fixes the depth of the scan where T is symbolic (export). By default it is
            taken from T.
    """
    steps, key_size = key.shape[1], key.shape[-1]
    # Two formulas of T alone: TensorRT bounds each by the longest T, a formula of the other one it cannot.
    chunks, size = (steps + CHUNK - 1) // CHUNK, torch.sym_min(steps, CHUNK)
    queries, keys, values = (in_chunks(x, chunks, size) for x in (query, key, value))
    betas, log_decays = (in_chunks(x.unsqueeze(-1), chunks, size) for x in (beta, log_decay))
    decay = decay_between(log_decays, keys.new_ones(CHUNK, CHUNK).tril()[:size, :size])  # (B, H, N, C, C)
    from_start = log_decays.cumsum(-2).exp()  # (B, H, N, C, 1)
    to_end = decay[..., -1:, :].mT  # (B, H, N, C, 1)
    # With S the state before the chunk: (I + A) U = beta (V - from_start K S), A strictly lower triangular.
    inverse = _unit_lower_inverse(betas * (keys @ keys.mT) * decay)
    solved = inverse @ (betas * torch.cat([-from_start * keys, values], -1))  # U = solved [S; I], (B, H, N, C, K + V)
    identity = torch.eye(key_size, solved.shape[-1], dtype=keys.dtype, device=keys.device)
    changes = (keys * to_end).mT @ solved + (from_start[..., -1:, :] - 1) * identity
    states, last = _scan(changes, state, max_chunks or chunks)
    updates = solved[..., :key_size] @ states + solved[..., key_size:]
    output = (queries @ keys.mT * decay) @ updates + from_start * (queries @ states)
    return out_of_chunks(output, steps), last


def _scan(changes: Tensor, state: Tensor, max_chunks: int) -> tuple[Tensor, Tensor]:
    """Prefix composition of the chunks' maps S -> S + D S + Q in log2(N) rounds of shift and compose.

    That D and not I + D is kept makes small changes exact: g is near 1 in most steps.

    Args:
        changes: D beside Q, (B, H, N, K, K + V).
        state: (B, H, K, V).

    Returns:
        The state before each chunk (B, H, N, K, V) and after the last (B, H, K, V).
    """
    chunks, key_size = changes.shape[2], state.shape[2]
    # One chunk has nothing to be composed with, and rounds on no chunks cost nothing. Beyond that all rounds have one
    # shape: TensorRT keeps memory apart for every other.
    scanned = chunks - 2 + torch.sym_min(chunks, 2)
    composed = changes[:, :, :scanned]
    number = torch.arange(scanned, device=changes.device)
    shift = 1
    while shift < max_chunks:
        shifted = composed.index_select(2, (number - shift).clamp(min=0))
        earlier = torch.where((number >= shift)[:, None, None], shifted, 0.0)
        composed = composed + earlier + composed[..., :key_size] @ earlier
        shift *= 2
    changes = torch.cat([composed, changes[:, :, scanned:]], 2)
    first = state.unsqueeze(2)
    after = first + changes[..., :key_size] @ first + changes[..., key_size:]
    return torch.cat([first, after], 2)[:, :, :chunks], after[:, :, -1]


def _unit_lower_inverse(lower: Tensor) -> Tensor:
    """(I + A)^-1 by block recursion, A the part of `lower` (..., C, C) below the diagonal, C <= 64.

    Any C: the inverse of a leading block is the leading block of the inverse. Squaring A repeatedly would overflow:
    with one item repeated its powers reach 1e17.
    """
    size = lower.shape[-1]
    index = torch.arange(CHUNK, device=lower.device)
    inverse = torch.eye(CHUNK, dtype=lower.dtype, device=lower.device)[:size, :size]
    block = 1
    while block < CHUNK:
        same_pair = (index[:, None] // (2 * block)) == (index[None, :] // (2 * block))
        lower_left = same_pair & (index[:, None] // block > index[None, :] // block)
        between = lower * lower_left.to(lower)[:size, :size]
        inverse = inverse - (between if block == 1 else inverse @ between @ inverse)
        block *= 2
    return inverse
