"""The blocks of HyTRec (DESIGN section 2). Shapes use the notation table of `hytrec.modeling.model`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hytrec.modeling.delta_rule import MIN_LOG_DECAY, DeltaRule

GAP_BUCKETS = 32
SHORTEST_PERIOD_S = 3_600.0
LONGEST_PERIOD_S = 365 * 86_400.0


class DurationBucket(nn.Module):
    """Number of j in 1..31 with d >= 2^j - 1.

    Integer comparisons: floor(log2) differs between runtimes at powers of two. The edges are a buffer, not made anew in
    every call, since a CUDA graph cannot capture a copy from the host.
    """

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        edges = torch.tensor([2**j - 1 for j in range(1, GAP_BUCKETS)], device="cpu")  # in no file: never on "meta"
        self.register_buffer("edges", edges, persistent=False)

    def forward(self, duration_s: Tensor) -> Tensor:
        """Durations (...) int64 seconds -> (...) int64 in 0..31; 0 where d < 0."""
        return (duration_s.unsqueeze(-1) >= self.edges).to(torch.int64).sum(-1)


def l2_normalize(x: Tensor) -> Tensor:
    """Unit length over the last axis; a zero vector stays zero. One operation of every runtime: RMS norm, scaled."""
    size = x.shape[-1]
    return F.rms_norm(x, (size,), x.new_full((size,), size**-0.5), eps=1e-6 / size)


def recall(memory: Tensor, queries: Tensor) -> Tensor:
    """S^T q for every query, L2-normalized per head: memory (B, H, K, V), queries (B, N, D) -> (B, N, D)."""
    q = l2_normalize(queries.unflatten(-1, (memory.shape[1], -1))).transpose(1, 2)  # (B, H, N, K)
    return (q @ memory).transpose(1, 2).flatten(2)


class MatrixProduct(nn.Module):
    """a @ b as a module, so that an export can put a product of another precision in its place."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., M, K) and (..., K, N) -> (..., M, N)."""
        return a @ b


class Projection(nn.Linear):
    """A linear layer whose weight is a factor of other products too; an export may keep it in another layout."""

    @property
    def matrix(self) -> Tensor:
        """The weight, (out, in)."""
        return self.weight


class Dropout(nn.Module):
    """Dropout in steps of 1/256, eight random bytes at a time: on a CPU drawing the mask costs more than what it masks.

    Args:
        share: of the entries that become zero, in [0, 1).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = round(share * 256)

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape, unchanged in evaluation mode."""
        if not self.training or self.dropped == 0:
            return x
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * kept * (256 / (256 - self.dropped))


class FeedForward(nn.Module):
    """Gated feed-forward block (SwiGLU): (..., D) -> (..., D)."""

    def __init__(self, *, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.down(self.dropout(F.silu(self.gate(x)) * self.up(x)))  # type: ignore[no-any-return]


class TemporalDecay(nn.Module):
    """The decay g_t of a TADN layer: a learned gate, weighted by elapsed time, over a static floor.

    Args:
        width: D.
        periods_s: initial P of each head, in seconds.
        gate_share: initial lam of each head.
    """

    def __init__(self, *, width: int, periods_s: list[float], gate_share: list[float]) -> None:
        super().__init__()
        self.log_period = nn.Parameter(torch.tensor(periods_s, dtype=torch.float64).log().float())
        self.share_logit = nn.Parameter(torch.tensor([_logit(share) for share in gate_share]))
        self.static_logit = nn.Parameter(torch.full((len(periods_s),), _logit(0.9999)))
        self.gate = nn.Linear(width, len(periods_s))
        nn.init.normal_(self.gate.weight, std=0.02)
        nn.init.constant_(self.gate.bias, 6.0)

    def forward(self, h: Tensor, gap_s: Tensor) -> Tensor:
        """log g_t, clamped at -30: h (B, T, D), gap_s (B, T) int64 -> (B, T, H).

        The share 1 - g that is lost is summed, and log g taken from it: g itself is known to float32 only to 6e-8 near
        1, and that error, the same at every step, grows with the history. ONNX has no log1p; for -log(1 - x) it has
        2 atanh(x / (2 - x)).
        """
        share = torch.sigmoid(self.share_logit)
        passed = torch.exp(-self._in_periods(gap_s))
        lost = share * (1 - torch.sigmoid(self.gate(h)) * passed) + (1 - share) * torch.sigmoid(-self.static_logit)
        return (-2 * torch.atanh((lost / (2 - lost)).clamp(max=1 - 1e-7))).clamp(min=MIN_LOG_DECAY)

    def idle(self, idle_s: Tensor) -> Tensor:
        """Factor on the memory after `idle_s` (B, 1) int64 seconds without events: (B, H)."""
        share = torch.sigmoid(self.share_logit)
        return share * torch.exp(-self._in_periods(idle_s)).squeeze(1) + (1 - share)

    def _in_periods(self, duration_s: Tensor) -> Tensor:
        return duration_s.to(self.log_period.dtype).unsqueeze(-1) * torch.exp(-self.log_period)


class TADNLayer(nn.Module):
    """Temporal-aware delta network layer (DESIGN section 2), linear in T.

    Args:
        width: D.
        heads: H.
        hidden: width of the feed-forward block.
        periods_s: initial P of each head.
        dropout: on both residual branches, in training.
    """

    def __init__(self, *, width: int, heads: int, hidden: int, periods_s: list[float], dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output_gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.beta = nn.Linear(width, heads, bias=False)
        stable = (heads + 1) // 2
        self.decay = TemporalDecay(
            width=width, periods_s=periods_s, gate_share=[0.05] * stable + [0.5] * (heads - stable)
        )
        self.ffn_norm = nn.RMSNorm(width, eps=1e-6)
        self.ffn = FeedForward(width=width, hidden=hidden, dropout=dropout)
        self.dropout = Dropout(dropout)

    def write(self, x: Tensor, gap_s: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the layer writes to its memory.

        Args:
            x: (B, T, D).
            gap_s: (B, T) int64 seconds.
            real: (B, T) bool, False at padding, which writes nothing and decays nothing.

        Returns:
            h (B, T, D), key (B, T, H, K), value (B, T, H, V), beta (B, T, H), log_decay (B, T, H).
        """
        h = self.norm(x)
        mask = real.unsqueeze(-1)
        beta = torch.where(mask, torch.sigmoid(self.beta(h)), 0.0)
        log_decay = torch.where(mask, self.decay(h, gap_s), 0.0)
        return h, l2_normalize(self._split(self.key(h))), self._split(self.value(h)), beta, log_decay

    def forward(
        self, x: Tensor, gap_s: Tensor, real: Tensor, memory: Tensor, delta_rule: DeltaRule
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, D), memory (B, H, K, V) -> x (B, T, D), memory (B, H, K, V); see `write` for the rest."""
        h, key, value, beta, log_decay = self.write(x, gap_s, real)
        query = l2_normalize(self._split(self.query(h)))
        read, memory = delta_rule(query, key, value, beta, log_decay, memory)
        x = x + self.dropout(self.output(read.flatten(2) * F.silu(self.output_gate(h))))
        return x + self.dropout(self.ffn(self.ffn_norm(x))), memory

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H, K)."""
        return x.unflatten(-1, (self.heads, -1))  # type: ignore[no-any-return]


class SoftmaxAttention(nn.Module):
    """Multi-head softmax attention, 1 / sqrt(K) scaled, over keys that are marked as present."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Projection(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = Projection(width, width, bias=False)
        self.product = MatrixProduct()

    def forward(self, x: Tensor, context: Tensor, present: Tensor) -> Tensor:
        """x (B, N, D) reads context (B, M, D) where present (B, M) bool, at least one of them True: (B, N, D)."""
        query, key, value = (
            self._split(f(y)) for f, y in ((self.query, x), (self.key, context), (self.value, context))
        )
        logits = self.product(query, key.mT) / math.sqrt(query.shape[-1])  # (B, H, N, M)
        absent = torch.where(present, 0.0, -math.inf)  # added: a choice at every logit takes longer
        read = self.product(torch.softmax(logits + absent[:, None, None], -1), value)
        return self.output(read.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, K)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]


class SoftmaxLayer(nn.Module):
    """Pre-norm self-attention and feed-forward over the recent window."""

    def __init__(self, *, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.attention = SoftmaxAttention(width=width, heads=heads)
        self.ffn_norm = nn.RMSNorm(width, eps=1e-6)
        self.ffn = FeedForward(width=width, hidden=hidden, dropout=dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, present: Tensor) -> Tensor:
        """x (B, N, D) reads context (B, M, D), both of one stream; present (B, M) bool -> (B, N, D)."""
        x = x + self.dropout(self.attention(self.norm(x), self.norm(context), present))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))  # type: ignore[no-any-return]


class MixtureOfExperts(nn.Module):
    """E expert blocks, all computed, mixed by a softmax router: (..., D) -> (..., D).

    Args:
        width: D.
        experts: E.
        hidden: width of each.
    """

    def __init__(self, *, width: int, experts: int, hidden: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Linear(width, experts * hidden, bias=False)
        self.down = nn.Linear(experts * hidden, width, bias=False)
        self.experts, self.hidden = experts, hidden

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        share = torch.softmax(self.router(x), -1)  # (..., E)
        hidden = F.silu(self.up(x)).unflatten(-1, (self.experts, -1)) * share.unsqueeze(-1)
        return self.down(hidden.flatten(-2))  # type: ignore[no-any-return]


class GatedFusion(nn.Module):
    """Convex mix of two vectors under a learned gate: two (..., D) -> (..., D)."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.gate = Projection(2 * width, width)
        self.product = MatrixProduct()

    def forward(self, long: Tensor, short: Tensor) -> Tensor:
        """Long and short (..., D) -> (..., D)."""
        width = long.shape[-1]
        of_long, of_short = self.gate.matrix[:, :width].T, self.gate.matrix[:, width:].T
        # The product with [long, short], without copying the two.
        gate = torch.sigmoid(self.product(long, of_long) + self.product(short, of_short) + self.gate.bias)
        return short + gate * (long - short)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def spaced_periods(layers: int, heads: int) -> list[list[float]]:
    """Initial P of every head of every layer in seconds, log-spaced from an hour to a year: layers x heads.

    The drifting heads (the later half, DESIGN section 2) and the stable ones each cover the whole range.
    """
    low, high = math.log(SHORTEST_PERIOD_S), math.log(LONGEST_PERIOD_S)
    step = (high - low) / max(1, layers - 1)
    return [[math.exp(low + step * layer)] * heads for layer in range(layers)]
