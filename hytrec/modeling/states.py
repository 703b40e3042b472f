"""What passes between the parts of a model. Shapes use the notation table of `hytrec.modeling.model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from hytrec import signature
from hytrec.contract import DType, Sizes

__all__ = ["Encoded", "Readout", "State", "UserFeatures"]


class State(NamedTuple):
    """The state of B users: the tensors of `hytrec.signature.STATE` in its order, each of its shape behind B."""

    memory: Tensor
    window_items: Tensor
    window_behaviors: Tensor
    window_times: Tensor
    long_vector: Tensor
    last_time: Tensor
    event_count: Tensor

    @classmethod
    def empty(cls, sizes: Sizes, batch: int, *, like: Tensor) -> Self:
        """The state of `batch` users without events: zeros.

        Args:
            like: has the device, and the dtype of what the table calls float32.
        """
        return cls._make(
            like.new_zeros(
                (batch, *sizes.shape(tensor)), dtype=torch.int64 if tensor.dtype is DType.INT64 else like.dtype
            )
            for tensor in signature.STATE
        )


class UserFeatures(NamedTuple):
    """What retriever and reranker read of B users: the tensors of `hytrec.signature.USER_FEATURES` in its order."""

    last_memory: Tensor
    window_items: Tensor
    window_behaviors: Tensor
    window_times: Tensor
    long_vector: Tensor
    last_time: Tensor
    now_s: Tensor

    @classmethod
    def of(cls, state: State, last_memory: Tensor, now_s: Tensor) -> Self:
        """The features at `now_s` (B, 1) int64, of a state and the last layer's memory (B, H, K, V)."""
        features = state._asdict() | {"last_memory": last_memory, "now_s": now_s}
        return cls._make(features[name] for name in cls._fields)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The encoder over whole sequences.

    Args:
        outputs: (B, T, D), the long vector after every event.
        memory: (B, L, H, K, V) after the last event.
        event_times: m_t, (B, T) int64.
        gap_s: seconds since the event before, (B, T) int64.
        real: (B, T) bool, False for padding.
        last_inputs: input of the last TADN layer (B, T, D), for `HyTRec.features_at`.
        before: its memory before the first event, (B, H, K, V).
    """

    outputs: Tensor
    memory: Tensor
    event_times: Tensor
    gap_s: Tensor
    real: Tensor
    last_inputs: Tensor
    before: Tensor


@dataclass(frozen=True, kw_only=True)
class Readout:
    """A user as read at `now_s`: what retriever and reranker compute from.

    Args:
        user: u, (B, D).
        memory: last layer's memory decayed to now, (B, H, K, V).
        tokens: short branch, (B, W + 1, D); the last one is the null token.
        present: (B, W + 1) bool.
        recent_items: item rows of the window, (B, W) int64, 0 for an empty place.
    """

    user: Tensor
    memory: Tensor
    tokens: Tensor
    present: Tensor
    recent_items: Tensor
