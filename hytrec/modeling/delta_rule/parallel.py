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
    batch, steps, heads, key_size = key.shape
    # Two formulas of T alone: TensorRT bounds each by the longest T, a formula of the other one it cannot.
    chunks, size = (steps + CHUNK - 1) // CHUNK, torch.sym_min(steps, CHUNK)
    # Users, heads and chunks are one axis G = B H N from here on: a traced product of more axes takes twice as long.
    sizes = [key_size, key_size, value.shape[-1], 1, 1]
    written = torch.cat([query, key, value, beta.unsqueeze(-1), log_decay.unsqueeze(-1)], -1)
    queries, keys, values, betas, log_decays = in_chunks(written, chunks, size).flatten(0, 2).split(sizes, -1)
    decay = decay_between(log_decays, keys.new_ones(CHUNK, CHUNK).tril()[:size, :size])  # (G, C, C)
    from_start = log_decays.cumsum(-2).exp()  # (G, C, 1)
    to_end = decay[:, -1:, :].mT  # (G, C, 1)
    # With S the state before the chunk: (I + A) U = beta (V - from_start K S), A strictly lower triangular.
    inverse = _unit_lower_inverse(betas * torch.bmm(keys, keys.mT) * decay)
    solved = torch.bmm(inverse, betas * torch.cat([-from_start * keys, values], -1))  # U = solved [S; I], (G, C, K + V)
    identity = torch.eye(key_size, solved.shape[-1], dtype=keys.dtype, device=keys.device)
    changes = torch.bmm((keys * to_end).mT, solved) + (from_start[:, -1:, :] - 1) * identity
    changes = changes.unflatten(0, (batch * heads, chunks))
    states, last = _scan(changes, state.flatten(0, 1), max_chunks or chunks)
    states = states.flatten(0, 1)
    updates = torch.bmm(solved[..., :key_size], states) + solved[..., key_size:]
    output = torch.bmm(torch.bmm(queries, keys.mT) * decay, updates) + from_start * torch.bmm(queries, states)
    return out_of_chunks(output.unflatten(0, (batch, heads, chunks)), steps), last.unflatten(0, (batch, heads))


def _scan(changes: Tensor, state: Tensor, max_chunks: int) -> tuple[Tensor, Tensor]:
    """Prefix composition of the chunks' maps S -> S + D S + Q: in turn inside groups of 8, log-depth over the groups.

    That D and not I + D is kept makes small changes exact: g is near 1 in most steps. Composing maps costs K times what
    applying them to a state does, so that every chunk is composed once, and the rounds are left to the groups alone.

    Args:
        changes: D beside Q, (B H, N, K, K + V).
        state: (B H, K, V).

    Returns:
        The state before each chunk (B H, N, K, V) and after the last (B H, K, V).
    """
    rows, chunks, key_size, columns = changes.shape
    # One chunk has nothing to be composed with, and rounds on no groups cost nothing.
    scanned = chunks - 2 + torch.sym_min(chunks, 2)
    size = min(GROUP, max_chunks)
    groups = (scanned + size - 1) // size
    padded = F.pad(changes[:, :scanned], (0, 0, 0, 0, 0, groups * size - scanned))  # zeros leave the state alone
    maps = padded.unflatten(1, (groups, size)).transpose(1, 2)
    composed = [maps[:, 0].flatten(0, 1)]
    for place in range(1, size):
        composed.append(_compose(composed[-1], maps[:, place].flatten(0, 1)))  # (B H M, K, K + V)
    first = state.unsqueeze(1)
    whole = _compose_all(composed[-1].unflatten(0, (rows, groups)), -(-max_chunks // size))
    before = torch.cat([first, _apply(whole, state)], 1)[:, :groups]
    after = _apply(torch.stack(composed, 1), before.flatten(0, 1)).reshape(rows, -1, key_size, columns - key_size)
    after = torch.cat([after[:, :scanned], _apply(changes[:, -1:], state)], 1)[:, :chunks]
    return torch.cat([first, after], 1)[:, :chunks], after[:, -1]


def _compose_all(maps: Tensor, max_groups: int) -> Tensor:
    """Every map after all before it, in log2 rounds of shift and compose: (B H, M, K, K + V) likewise.

    All rounds have one shape: TensorRT keeps memory apart for every other.
    """
    number = torch.arange(maps.shape[1], device=maps.device)
    shift = 1
    while shift < max_groups:
        shifted = maps.index_select(1, (number - shift).clamp(min=0))
        shifted = torch.where((number >= shift)[:, None, None], shifted, 0.0)
        maps = _compose(shifted.flatten(0, 1), maps.flatten(0, 1)).view(maps.shape)
        shift *= 2
    return maps


def _compose(earlier: Tensor, later: Tensor) -> Tensor:
    """The map of `earlier` and then `later`, (G, K, K + V) each."""
    return later + earlier + torch.bmm(later[..., : later.shape[-2]], earlier)


def _apply(maps: Tensor, state: Tensor) -> Tensor:
    """The states after each of N maps (G, N, K, K + V) of one state (G, K, V): (G, N, K, V), by one product."""
    key_size = maps.shape[-2]
    products = torch.bmm(maps[..., :key_size].flatten(1, 2), state)
    after: Tensor = state.unsqueeze(1) + products.unflatten(1, (maps.shape[1], key_size)) + maps[..., key_size:]
    return after


def _unit_lower_inverse(lower: Tensor) -> Tensor:
    """(I + A)^-1 by block recursion, A the part of `lower` (G, C, C) below the diagonal, C <= 64.

    Any C: the inverse of a leading block is the leading block of the inverse. Squaring A repeatedly would overflow:
    with one item repeated its powers reach 1e17.
    """
    size = lower.shape[-1]
    masks = [mask.to(lower.dtype)[:size, :size] for mask in _lower_left_blocks(lower.device)]
    inverse = torch.eye(CHUNK, dtype=lower.dtype, device=lower.device)[:size, :size] - lower * masks[0]
    for round_, mask in enumerate(masks[1:], 1):
        if isinstance(size, int) and size <= 1 << round_:
            break  # of a shorter chunk the rest is zero
        inverse = inverse - torch.bmm(torch.bmm(inverse, lower * mask), inverse)
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
