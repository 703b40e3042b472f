"""Training options and their only defaults, which the command line reads from here. No torch."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any

from hytrec.errors import ConfigError

__all__ = ["ItemStart", "Precision", "Reversal", "TrainingOptions"]

_WHOLE = (
    "epochs",
    "patience",
    "max_history",
    "batch_events",
    "positions",
    "negatives",
    "rerank_candidates",
    "validation_users",
    "test_users",
    "log_steps",
)


_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class Precision(StrEnum):
    """Precision of the large matrix products of a training; names as in PyTorch Lightning."""

    AUTO = "auto"
    BFLOAT16 = "bf16-mixed"
    FLOAT32 = "32-true"


class Reversal(StrEnum):
    """Whether every second epoch reads histories backwards."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class ItemStart(StrEnum):
    """What the item table is before the first step."""

    SPECTRAL = "spectral"
    RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of `hytrec.training.loop.train`.

    Args:
        epochs: the learning rate falls to a tenth over them.
        max_minutes: stops even within an epoch; the learning rate falls over whichever ends first. None for no limit.
        max_history: limits how far a gradient reaches and what a step costs; longer histories are trained in stretches
            that carry the user's state on, so the memory reaches to their beginning.
        negatives: full softmax where the catalogue has no more items than that.
        learning_rate: of AdamW.
        item_rate: at the full rate the item table forgets its spectral start.
        reversal: auto turns it on where items tell about those before them about what they tell about those after.
        average_decay: the moving average is what is evaluated and kept.
        validation_users, test_users: maximum, evenly spaced; `hytrec evaluate` takes all.
        checkpoint_minutes: a killed training loses no more than that; an interrupted one loses nothing.
        precision: weights, state, norms, softmax and losses are float32 in any case.
    """

    seed: Annotated[int, "Random seed of weights and sampling."] = 0
    epochs: Annotated[int, "Maximum number of epochs."] = 60
    max_minutes: Annotated[float | None, "Maximum training time."] = None
    patience: Annotated[int, "Stop after this many epochs without a better validation NDCG@10."] = 8
    max_history: Annotated[int, "Events of a stretch: how far back a gradient reaches; the state goes further."] = 200
    batch_events: Annotated[int, "Events per batch, padding included."] = 2_048
    positions: Annotated[int, "Positions per history at which the user vector is trained."] = 16
    negatives: Annotated[int, "Negatives of the sampled softmax."] = 2_048
    learning_rate: Annotated[float, "Peak learning rate, after warm-up."] = 3e-3
    item_start: Annotated[ItemStart, "Item table at first: of the items' proximity, or random."] = ItemStart.SPECTRAL
    item_rate: Annotated[float, "Learning rate of the item table, as a share of the peak."] = 0.2
    reversal: Annotated[Reversal, "Every second epoch reads histories backwards."] = Reversal.AUTO
    weight_decay: Annotated[float, "Weight decay of matrices and embedding tables."] = 0.05
    warmup_steps: Annotated[int, "Steps of linear learning-rate warm-up."] = 50
    unknown_rate: Annotated[float, "Share of input items replaced by the unknown item."] = 0.01
    average_decay: Annotated[float, "Decay of the weights' moving average."] = 0.98
    other_weight: Annotated[float, "What an event of no --target-behavior counts in the losses."] = 0.2
    rerank_candidates: Annotated[int, "Retrieved items of a list that the reranker's correction learns from."] = 100
    validation_users: Annotated[int, "Users evaluated after each epoch."] = 3_000
    test_users: Annotated[int, "Users of the test part that the finished model is measured on."] = 10_000
    log_steps: Annotated[int, "Steps between two lines of metrics.jsonl."] = 50
    checkpoint_minutes: Annotated[float, "Minutes between checkpoints within an epoch."] = 10.0
    device: Annotated[str, "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."] = "auto"
    precision: Annotated[Precision, "Matrix products: auto takes bfloat16 on a GPU."] = Precision.AUTO

    def __post_init__(self) -> None:
        """Raises: ConfigError: an option is out of its range."""
        for name in _WHOLE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ConfigError(f"max_minutes is {self.max_minutes}; it must be over 0")
        for name in ("learning_rate", "item_rate", "checkpoint_minutes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be over 0")
        for name in ("seed", "weight_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.other_weight <= 1:
            raise ConfigError(f"other_weight is {self.other_weight}; it must be in [0, 1]")
        for name in ("unknown_rate", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        check_device_name(self.device)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def check_device_name(name: str) -> None:
    """Raises: ConfigError: it is not auto, cpu, cuda or cuda:N."""
    if not _DEVICE.fullmatch(name):
        raise ConfigError(f"device {name!r} is unknown; give auto, cpu, cuda, or cuda:N as cuda:0")
