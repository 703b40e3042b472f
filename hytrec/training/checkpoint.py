"""The checkpoint of an unfinished training: one file in the run folder, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import torch

from hytrec.config import ModelConfig
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import RunError
from hytrec.training.options import TrainingOptions
from hytrec.training.trainer import Trainer

__all__ = ["CHECKPOINT_FILE", "Epoch", "Progress", "Resumable", "Sums"]

CHECKPOINT_FILE = "training.pt"
_FORMAT_VERSION = 4
_MAY_CHANGE = ("max_minutes", "patience", "device", "precision", "log_steps", "checkpoint_minutes", "test_users")
"""Options that say when to stop, where to compute and what to write: a resumed training may have others."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of the log of a training.

    Args:
        number: 0 is the first.
        long, user: mean losses.
        validation: NDCG@10 of the retriever.
        validation_users: that it is the mean of.
        seconds: of training alone.
    """

    number: int
    long: float
    user: float
    validation: float
    seconds: float
    events_per_s: float
    validation_users: int = 0


@dataclass(kw_only=True)
class Sums:
    """Sums over the steps of an epoch under way, from which its line is made; seconds of training alone."""

    steps: int = 0
    events: int = 0
    long: float = 0.0
    user: float = 0.0
    seconds: float = 0.0


@dataclass(kw_only=True)
class Progress:
    """State of a training besides weights, optimizer and random numbers.

    Args:
        epochs: that are finished.
        sums: of the epoch under way.
        seconds: validation included.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: float = -1.0
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    sums: Sums = field(default_factory=Sums)


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """The checkpoint of one training.

    Args:
        file: where it is.
        identity: model, options, vocabulary and protocol (split, repeats, target behaviors) that a checkpoint must have
            been written with.
    """

    file: Path
    identity: dict[str, Any]

    @classmethod
    def of(
        cls,
        output: Path,
        *,
        config: ModelConfig,
        options: TrainingOptions,
        vocabulary: Vocabulary,
        protocol: Mapping[str, Any],
    ) -> Self:
        """The checkpoint in the run folder `output`.

        Args:
            protocol: JSON-able options of the split and the evaluation, by name.
        """
        fixed = {name: value for name, value in options.to_dict().items() if name not in _MAY_CHANGE}
        identity = {
            "model": config.to_dict(),
            "options": fixed,
            "vocabulary": vocabulary.digest(),
            **protocol,
        }
        return cls(file=output / CHECKPOINT_FILE, identity=json.loads(json.dumps(identity)))

    def start(self) -> Progress:
        """Start from scratch.

        Raises:
            RunError: there is a training already.
        """
        if self.file.exists():
            raise RunError(
                f"{self.file.parent} holds a training already; resume it with: hytrec train --resume "
                f"{self.file.parent}, or give another --output"
            )
        return Progress()

    def save(self, trainer: Trainer, progress: Progress) -> None:
        """Replace the checkpoint."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(self.file.name + ".tmp")
        torch.save(
            {
                "format_version": _FORMAT_VERSION,
                "identity": self.identity,
                "trainer": trainer.state_dict(),
                "progress": {
                    **vars(progress),
                    "epochs": [asdict(epoch) for epoch in progress.epochs],
                    "sums": asdict(progress.sums),
                },
            },
            temporary,
        )
        temporary.replace(self.file)

    def restore(self, trainer: Trainer) -> Progress:
        """Restore the checkpoint, or start from scratch where there is none.

        Raises:
            RunError: it is damaged, or of another log, model or options.
        """
        if not self.file.exists():
            return Progress()
        try:
            saved = torch.load(self.file, weights_only=True, map_location="cpu")
            if saved["format_version"] != _FORMAT_VERSION:
                raise RunError(  # noqa: TRY301
                    f"{self.file} has format version {saved['format_version']}; this hytrec resumes {_FORMAT_VERSION}: "
                    "train again, into another --output"
                )
            identity = saved["identity"]
            for name, value in self.identity.items():
                if identity.get(name) != value:
                    raise RunError(  # noqa: TRY301
                        f"{self.file} was made with {_difference(name, identity.get(name), value)}; "
                        "resume with the same, or give another --output"
                    )
            trainer.load_state_dict(saved["trainer"])
            progress = saved["progress"]
            epochs = msgspec.convert(progress.pop("epochs"), list[Epoch])
            return Progress(**{**progress, "sums": Sums(**progress["sums"])}, epochs=epochs)
        except RunError:
            raise
        except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(f"{self.file} is damaged ({reason}); remove it and train again") from error


def _difference(name: str, saved: object, now: object) -> str:
    """Name the first value that is another one."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key, value in now.items():
            if saved.get(key) != value:
                return f"{key} {saved.get(key)}, not {value}"
    return f"another {name}"
