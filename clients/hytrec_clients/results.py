"""Results of the clients' methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus

Key = int | str
"""An item or behavior key; which of the two, the server's vocabulary says."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Outcome of a request's events.

    Args:
        event_count: events the user's state holds, this request's included.
        applied: whether this request's events were written now. False for a request without events, and for one whose
            `request_id` the server already knew: its events were written before.
        model_fingerprint: 32 hex digits, a hash of the weights, config and vocabulary of the model that ran.
        state_status: what the store held when the request began; all but FOUND count as absent.
    """

    event_count: int
    applied: bool
    model_fingerprint: str
    state_status: StateStatus


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Scores of candidates.

    Args:
        scores: (N,) float32, in the order of the candidates given; higher is better.
        receipt: outcome of the request's events.
    """

    scores: NDArray[np.float32]
    receipt: Receipt


@dataclass(frozen=True, kw_only=True, eq=False)
class Recommendation:
    """The best items of the catalogue, best first.

    Args:
        item_keys: S of them, at most top_k.
        scores: (S,) float32, of the same items.
        receipt: outcome of the request's events.
    """

    item_keys: tuple[Key, ...]
    scores: NDArray[np.float32]
    receipt: Receipt
