"""What a run says of its fitted reranker: what was chosen, and what every part gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CORRECTION", "FittedReranker", "Gain"]

CORRECTION = "correction"
"""The whole correction, among the parts of `hytrec.modeling.reranker.RerankerPart`."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What NDCG@10 loses without a part, and the standard error over users."""

    gain: float
    error: float

    @property
    def is_clear(self) -> bool:
        """Whether it is above two standard errors."""
        return self.gain > 2 * self.error


@dataclass(frozen=True, kw_only=True)
class FittedReranker:
    """What was chosen, and what it brings to users that it was not fitted on.

    Args:
        users: of the validation part; those whose target was retrieved are learned from.
        epochs: of fitting the correction; 0 where none is better than every one that was tried.
        weight: of the correction, 0 for none.
        ndcg: NDCG@10 by cross-fitting.
        gains: by part, and of the whole correction.
    """

    users: int
    epochs: int
    weight: float
    ndcg: float
    gains: Mapping[str, Gain]
