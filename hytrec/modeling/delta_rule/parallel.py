"""All chunks at once, for export; shapes as in `hytrec.modeling.delta_rule`."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hytrec.modeling.delta_rule.chunks import decay_between, in_chunks, out_of_chunks

CHUNK = 64
"""Largest chunk."""
GROUP = 8
"""Most chunks whose maps are composed in turn."""


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
    """Matrix products only: WY form inside chunks, a scan over the chunks. T >= 1.

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
    """Prefix composition of the chunks' maps S -> S + D S + Q: in turn inside groups of 8, log-depth over the groups.

    That D and not I + D is kept makes small changes exact: g is near 1 in most steps. Composing maps costs K times what
    applying them to a state does, so that every chunk is composed once, and the rounds are left to the groups alone.

    Args:
        changes: D beside Q, (B, H, N, K, K + V).
        state: (B, H, K, V).

    Returns:
        The state before each chunk (B, H, N, K, V) and after the last (B, H, K, V).
    """
    batch, heads, chunks, key_size, columns = changes.shape
    # One chunk has nothing to be composed with, and rounds on no groups cost nothing.
    scanned = chunks - 2 + torch.sym_min(chunks, 2)
    size = min(GROUP, max_chunks)
    groups = (scanned + size - 1) // size
    padded = F.pad(changes[:, :, :scanned], (0, 0, 0, 0, 0, groups * size - scanned))  # zeros leave the state alone
    maps = padded.reshape(batch, heads, groups, size, key_size, columns).unbind(3)
    composed = [maps[0]]
    for later in maps[1:]:
        composed.append(_compose(composed[-1], later))
    first = state.unsqueeze(2)
    before = torch.cat([first, _apply(_compose_all(composed[-1], -(-max_chunks // size)), first)], 2)[:, :, :groups]
    after = _apply(torch.stack(composed, 3), before.unsqueeze(3)).flatten(2, 3)
    after = torch.cat([after[:, :, :scanned], _apply(changes[:, :, scanned:], first)], 2)
    return torch.cat([first, after], 2)[:, :, :chunks], after[:, :, -1]


def _compose_all(maps: Tensor, max_groups: int) -> Tensor:
    """Every map after all before it, in log2 rounds of shift and compose: (B, H, M, K, K + V) likewise.

    All rounds have one shape: TensorRT keeps memory apart for every other.
    """
    number = torch.arange(maps.shape[2], device=maps.device)
    shift = 1
    while shift < max_groups:
        shifted = maps.index_select(2, (number - shift).clamp(min=0))
        maps = _compose(torch.where((number >= shift)[:, None, None], shifted, 0.0), maps)
        shift *= 2
    return maps


def _compose(earlier: Tensor, later: Tensor) -> Tensor:
    """The map of `earlier` and then `later`, (..., K, K + V) each."""
    return later + earlier + later[..., : later.shape[-2]] @ earlier


def _apply(maps: Tensor, states: Tensor) -> Tensor:
    """The states after maps (..., K, K + V) of states (..., K, V)."""
    key_size = maps.shape[-2]
    return states + maps[..., :key_size] @ states + maps[..., key_size:]


def _unit_lower_inverse(lower: Tensor) -> Tensor:
    """(I + A)^-1 by block recursion, A the part of `lower` (..., C, C) below the diagonal, C <= 64.

    Any C: the inverse of a leading block is the leading block of the inverse. Squaring A repeatedly would overflow:
    with one item repeated its powers reach 1e17.
    """
    size = lower.shape[-1]
    inverse = torch.eye(CHUNK, dtype=lower.dtype, device=lower.device)[:size, :size]
    for round_, mask in enumerate(_lower_left_blocks(lower.device)):
        if isinstance(size, int) and size <= 1 << round_:
            break  # of a shorter chunk the rest is zero
        between = lower * mask.to(lower.dtype)[:size, :size]
        inverse = inverse - (between if round_ == 0 else inverse @ between @ inverse)
    return inverse


def _lower_left_block(block: int) -> Tensor:
    """1 where a pair of neighbouring blocks on the diagonal has its lower left quarter, (CHUNK, CHUNK)."""
    index = torch.arange(CHUNK)
    pair, number = index // (2 * block), index // block
    return ((pair[:, None] == pair[None, :]) & (number[:, None] > number[None, :])).float()


_LOWER_LEFT_BLOCKS = tuple(_lower_left_block(1 << round_) for round_ in range(CHUNK.bit_length() - 1))


def _lower_left_blocks(device: torch.device) -> tuple[Tensor, ...]:
    """One mask a round, made once: an export keeps constants and not how they came."""
    return _LOWER_LEFT_BLOCKS if device.type == "cpu" else _on_device(device)


@cache
def _on_device(device: torch.device) -> tuple[Tensor, ...]:
    """Copied once: a CUDA graph cannot capture a copy from the host."""
    return tuple(mask.to(device) for mask in _LOWER_LEFT_BLOCKS)
