"""Training options and their only defaults, which the command line reads from here. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hytrec.errors import ConfigError

__all__ = ["TrainingOptions"]

_WHOLE = (
    "epochs",
    "patience",
    "max_history",
    "batch_events",
    "positions",
    "negatives",
    "rerank_candidates",
    "validation_users",
)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of `hytrec.training.loop.train`.

    Args:
        seed: of the weights and of everything drawn.
        epochs: maximum; the learning rate falls to a tenth over them.
        max_minutes: stop after this time, even within an epoch; the learning rate falls over whichever ends first;
            None for no limit.
        patience: stop after this many epochs without a better NDCG@10 on the validation part.
        max_history: longer histories are cut, to a random stretch of this many events in every epoch.
        batch_events: events of a batch, padding included.
        positions: P, where the user vector is trained in every history.
        negatives: items drawn for sampled softmax; full softmax where the catalogue has no more than that.
        learning_rate: of AdamW after the warm-up.
        weight_decay: of matrices and tables.
        warmup_steps: in which the learning rate rises from zero.
        unknown_rate: share of the input items shown as the unknown item.
        average_decay: of the moving average of the weights, which is what is evaluated and kept.
        rerank_candidates: retrieved items against which the reranker learns.
        validation_users: maximum evaluated after each epoch, evenly spaced.
    """

    seed: int = 0
    epochs: int = 60
    max_minutes: float | None = None
    patience: int = 8
    max_history: int = 200
    batch_events: int = 2_048
    positions: int = 16
    negatives: int = 2_048
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    unknown_rate: float = 0.01
    average_decay: float = 0.98
    rerank_candidates: int = 32
    validation_users: int = 3_000

    def __post_init__(self) -> None:
        """Raises: ConfigError: an option is out of its range."""
        for name in _WHOLE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ConfigError(f"max_minutes is {self.max_minutes}; it must be over 0")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be over 0")
        for name in ("seed", "weight_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("unknown_rate", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
