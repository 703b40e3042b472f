"""The gated delta rule of a TADN layer, in plain and in chunked form, under one signature.

    u_t = beta_t (v_t - g_t S_(t-1)^T k_t)
    S_t = g_t S_(t-1) + k_t u_t^T        = g_t (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T
    o_t = S_t^T q_t

(arXiv 2412.06464, eq. 10; the decay g_t is DESIGN section 2's.) Every form takes and returns

    query, key   (B, T, H, K)    float; L2-normalised over K by the caller
    value        (B, T, H, V)
    beta         (B, T, H)       write strength in [0, 1]; 0 at padding
    log_decay    (B, T, H)       log g_t in [-30, 0]; 0 at padding
    state        (B, H, K, V)    S_0
    -> output    (B, T, H, V), state S_T (B, H, K, V)

A third form, onnxruntime's fused operator, has the same signature and lives with the exporter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64
EAGER_CHUNK = 32
"""Largest chunk of `chunk_by_chunk`, which pays for every step inside a chunk and for every chunk."""
MIN_LOG_DECAY = -30.0


class DeltaRule(Protocol):
    """Any form of the recurrence."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs (B, T, H, V) and the state after the last step (B, H, K, V)."""
        ...


def reference(
    query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Step by step, as the equations stand: the truth that every faster form is tested against."""
    outputs = []
    for t in range(query.shape[1]):
        g = log_decay[:, t, :, None, None].exp()  # (B, H, 1, 1)
        k = key[:, t, :, :, None]  # (B, H, K, 1)
        v = value[:, t, :, None, :]  # (B, H, 1, V)
        u = beta[:, t, :, None, None] * (v - g * (k.mT @ state))
        state = g * state + k @ u
        outputs.append((query[:, t, :, None, :] @ state).squeeze(-2))
    output = torch.stack(outputs, 1) if outputs else value.new_zeros(value.shape)
    return output, state


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
    """Matrix products only: WY form inside chunks of 64 steps, a log-depth scan over the chunks.

    Args:
        max_chunks: bound on ceil(T / 64); fixes the depth of the scan where T is symbolic (export). By default it is
            taken from T.
    """
    steps = query.shape[1]
    keys, log_decays = _in_chunks(key), _in_chunks(log_decay.unsqueeze(-1)).squeeze(-1)
    updates, states, state = _updates(
        keys, _in_chunks(value), _in_chunks(beta.unsqueeze(-1)), log_decays, state, max_chunks
    )
    queries = _in_chunks(query)
    decay = _segment_sums(log_decays).exp().tril()
    inside = (queries @ keys.mT * decay) @ updates
    before = log_decays.cumsum(-1).exp().unsqueeze(-1) * (queries @ states)
    return _out_of_chunks(inside + before, steps), state


def chunk_by_chunk(
    query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Chunks one after the other, each by a triangular solve: the fastest form in eager PyTorch, for training."""
    chunks = _Chunks.cut(key, value, beta, log_decay)
    updates, states = chunks.solve(state)
    queries = _in_chunks(query, chunks.size)
    inside = (queries @ chunks.keys.mT * chunks.decay) @ torch.stack(updates, 2)
    before = chunks.from_start * (queries @ torch.stack(states[:-1], 2))
    return _out_of_chunks(inside + before, query.shape[1]), states[-1]


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
        keys, values = _in_chunks(key, size), _in_chunks(value, size)
        betas, logs = _in_chunks(beta.unsqueeze(-1), size), _in_chunks(log_decay.unsqueeze(-1), size).squeeze(-1)
        decay = _segment_sums(logs).exp().tril()
        from_start = logs.cumsum(-1).exp().unsqueeze(-1)
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


def _updates(
    keys: Tensor, values: Tensor, betas: Tensor, log_decays: Tensor, state: Tensor, max_chunks: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve every chunk for its u_t.

    With S_0 the state before the chunk: (I + A) U = beta (V - decay K S_0), A strictly lower triangular, so that
    U = U_v - W S_0 and the chunk maps the state affinely, S -> P S + Q.

    Returns:
        u (B, H, N, C, V), the state before each chunk (B, H, N, K, V), the state after the last one (B, H, K, V).
    """
    segments = _segment_sums(log_decays)
    lower = (betas * (keys @ keys.mT) * segments.exp()).tril(-1)
    inverse = _unit_lower_inverse(lower)
    from_start = log_decays.cumsum(-1).exp().unsqueeze(-1)  # (B, H, N, C, 1)
    own = inverse @ (betas * values)
    carried = inverse @ (betas * from_start * keys)
    to_end = segments[..., -1, :].exp().unsqueeze(-1)  # (B, H, N, C, 1)
    written = (keys * to_end).mT  # (B, H, N, K, C)
    identity = torch.eye(keys.shape[-1], dtype=keys.dtype, device=keys.device)
    transition = from_start[..., -1:, :] * identity - written @ carried
    states, last = _scan(transition, written @ own, state, max_chunks)
    return own - carried @ states, states, last


def _scan(transition: Tensor, offset: Tensor, state: Tensor, max_chunks: int | None) -> tuple[Tensor, Tensor]:
    """Prefix composition of the chunks' maps S -> P S + Q in log2(N) rounds of shift and compose.

    Args:
        transition: P, (B, H, N, K, K).
        offset: Q, (B, H, N, K, V).
        state: (B, H, K, V).

    Returns:
        The state before each chunk (B, H, N, K, V) and after the last (B, H, K, V).
    """
    chunks = transition.shape[2]
    bound = chunks if max_chunks is None else max_chunks
    identity = torch.eye(transition.shape[-1], dtype=transition.dtype, device=transition.device)
    shift = 1
    while shift < bound:
        # A map shifted in from before the first chunk is the identity: P = I, Q = 0.
        earlier_p = F.pad(transition - identity, (0, 0, 0, 0, shift, 0))[:, :, :chunks] + identity
        earlier_q = F.pad(offset, (0, 0, 0, 0, shift, 0))[:, :, :chunks]
        offset = transition @ earlier_q + offset
        transition = transition @ earlier_p
        shift *= 2
    after = transition @ state.unsqueeze(2) + offset
    before = torch.cat([state.unsqueeze(2), after], 2)
    return before[:, :, :-1], after[:, :, -1]


def _segment_sums(log_decays: Tensor) -> Tensor:
    """Sums over j < i <= t: (..., C) -> (..., C, C) at [t, j], 0 above the diagonal.

    A masked cumulative sum, never a difference of two: under strong decay that loses all digits.
    """
    size = log_decays.shape[-1]
    mask = torch.ones(size, size, dtype=torch.bool, device=log_decays.device).tril(-1)
    spread = log_decays.unsqueeze(-1).expand(*log_decays.shape, size)
    return torch.where(mask, spread, 0.0).cumsum(-2).tril(-1)


def _unit_lower_inverse(lower: Tensor) -> Tensor:
    """(I + A)^-1 for strictly lower triangular A (..., C, C), C a power of two, by block recursion.

    Squaring A repeatedly would overflow: with one item repeated its powers reach 1e17.
    """
    size = lower.shape[-1]
    index = torch.arange(size, device=lower.device)
    inverse = torch.eye(size, dtype=lower.dtype, device=lower.device).expand_as(lower)
    block = 1
    while block < size:
        same_pair = (index[:, None] // (2 * block)) == (index[None, :] // (2 * block))
        lower_left = same_pair & (index[:, None] // block > index[None, :] // block)
        inverse = inverse - inverse @ torch.where(lower_left, lower, 0.0) @ inverse
        block *= 2
    return inverse


def _in_chunks(x: Tensor, size: int = CHUNK) -> Tensor:
    """(B, T, H, F) -> (B, H, N, C, F), padded with zeros: beta = 0 and log g = 0 leave the state alone."""
    batch, steps, heads, features = x.shape
    chunks = (steps + size - 1) // size
    x = F.pad(x, (0, 0, 0, 0, 0, size - 1))[:, : chunks * size]
    return x.reshape(batch, chunks, size, heads, features).permute(0, 3, 1, 2, 4)


def _out_of_chunks(x: Tensor, steps: int) -> Tensor:
    """(B, H, N, C, F) -> (B, T, H, F)."""
    batch, heads, chunks, size, features = x.shape
    return x.permute(0, 2, 3, 1, 4).reshape(batch, chunks * size, heads, features)[:, :steps]
