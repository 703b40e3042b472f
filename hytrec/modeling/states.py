"""What passes between the parts of a model. Shapes use the notation table of `hytrec.modeling.model`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Encoded", "Reading", "State"]


@dataclass(frozen=True, kw_only=True)
class State:
    """What is kept of B users (DESIGN section 3); every field has the shape of `hytrec.signature` behind B."""

    memory: Tensor
    window_items: Tensor
    window_behaviors: Tensor
    window_times: Tensor
    long_vector: Tensor
    last_time: Tensor
    event_count: Tensor


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The encoder over whole sequences.

    Args:
        outputs: (B, T, D), the long vector after every event.
        memory: (B, L, H, K, V) after the last event.
        event_times: m_t, (B, T) int64.
        last_inputs: input of the last TADN layer (B, T, D), for `HyTRec.memory_at`.
    """

    outputs: Tensor
    memory: Tensor
    event_times: Tensor
    gap_s: Tensor
    real: Tensor
    last_inputs: Tensor


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A user as seen at `now`: the input of the retriever and the reranker.

    Args:
        user: u, (B, D).
        memory: last layer's memory decayed to now, (B, H, K, V).
        tokens: short branch, (B, W + 1, D); the last one is the null token.
        present: (B, W + 1) bool.
    """

    user: Tensor
    memory: Tensor
    tokens: Tensor
    present: Tensor
