"""The checkpoint of an unfinished training: one file in the run folder, whole or not there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import torch

from hytrec.config import ModelConfig
from hytrec.data.split import Repeats
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import RunError
from hytrec.training.options import TrainingOptions
from hytrec.training.trainer import Trainer

__all__ = ["CHECKPOINT_FILE", "Epoch", "Progress", "Resumable"]

CHECKPOINT_FILE = "training.pt"
_FORMAT_VERSION = 1
_MAY_CHANGE = ("max_minutes", "patience", "device", "precision")
"""Options that say when to stop, and where to compute: a resumed training may have others."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of the log of a training.

    Args:
        number: 0 is the first.
        long, user, rerank: mean losses.
        validation: NDCG@10 of the retriever.
        validation_users: that it is the mean of.
        seconds: of training alone.
    """

    number: int
    long: float
    user: float
    rerank: float
    validation: float
    seconds: float
    events_per_s: float
    validation_users: int = 0


@dataclass(kw_only=True)
class Progress:
    """State of a training besides weights and optimizer; `seconds` includes validation."""

    epochs: list[Epoch] = field(default_factory=list)
    best: float = -1.0
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """The checkpoint of one training.

    Args:
        file: where it is.
        identity: model, options, vocabulary and protocol of repeats that a checkpoint must have been written with.
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
        allow_repeats: bool = False,
    ) -> Self:
        """The checkpoint in the run folder `output`."""
        fixed = {name: value for name, value in options.to_dict().items() if name not in _MAY_CHANGE}
        identity = {
            "model": config.to_dict(),
            "options": fixed,
            "vocabulary": vocabulary.digest(),
            "--repeats": Repeats.of(allowed=allow_repeats).value,
        }
        return cls(file=output / CHECKPOINT_FILE, identity=json.loads(json.dumps(identity)))

    def start(self) -> Progress:
        """Start from scratch.

        Raises:
            RunError: there is a training already.
        """
        if self.file.exists():
            raise RunError(
                f"{self.file.parent} holds a training already; resume it with --resume, or give another --output"
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
                "progress": {**vars(progress), "epochs": [asdict(epoch) for epoch in progress.epochs]},
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
            identity = saved["identity"] if saved["format_version"] == _FORMAT_VERSION else {}
            for name, value in self.identity.items():
                if identity.get(name) != value:
                    raise RunError(  # noqa: TRY301
                        f"{self.file} was made with {_difference(name, identity.get(name), value)}; "
                        "resume with the same, or give another --output"
                    )
            trainer.load_state_dict(saved["trainer"])
            epochs = msgspec.convert(saved["progress"].pop("epochs"), list[Epoch])
            return Progress(**saved["progress"], epochs=epochs)
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
