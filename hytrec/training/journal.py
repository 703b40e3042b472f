"""`metrics.jsonl` of a run: a line every few steps and a line after every validation, as the training goes on.

    {"step": 50, "epoch": 0, "loss": 13.1, "long": 7.1, "user": 6.0, "learning_rate": 0.003, "events_per_s": 8100.0}
    {"step": 61, "epoch": 0, "validation_ndcg@10": 0.043, "validation_users": 943, "best": true}

A step is counted over the whole training; losses are means since the line before, or
since the training was resumed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hytrec.training.checkpoint import Epoch
from hytrec.training.trainer import StepLoss

__all__ = ["JOURNAL_FILE", "Journal"]

JOURNAL_FILE = "metrics.jsonl"


class Journal:
    """Appends to the file; every line is whole when it is there.

    Args:
        file: its lines after `steps`, of a training that was killed later than its last checkpoint, are taken out.
        every: steps between two lines.
        steps: that the training has done.
        epochs: that the training has finished.
    """

    def __init__(self, file: Path, *, every: int, steps: int, epochs: int) -> None:
        self._file, self._every = file, every
        self._losses: list[StepLoss] = []
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(file) if _is_before(line, steps, epochs)]
        temporary = file.with_name(file.name + ".tmp")
        temporary.write_text("".join(line + "\n" for line in kept))
        temporary.replace(file)

    def step(self, step: int, epoch: int, loss: StepLoss, *, learning_rate: float, events_per_s: float) -> None:
        """After every step."""
        self._losses.append(loss)
        if step % self._every == 0:
            names = {"loss": "total", "long": "long", "user": "user"}
            means = {
                name: float(np.mean([getattr(loss, field) for loss in self._losses])) for name, field in names.items()
            }
            self._losses.clear()
            self._append(
                {"step": step, "epoch": epoch, **means, "learning_rate": learning_rate, "events_per_s": events_per_s}
            )

    def validation(self, step: int, epoch: Epoch, *, best: bool) -> None:
        """After every validation."""
        self._append(
            {
                "step": step,
                "epoch": epoch.number,
                "validation_ndcg@10": epoch.validation,
                "validation_users": epoch.validation_users,
                "best": best,
            }
        )

    def _append(self, values: dict[str, float | int | bool]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(values) + "\n")


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _is_before(line: str, steps: int, epochs: int) -> bool:
    """Whether a line is of what the checkpoint has seen; a damaged one, cut by a full disk, is not."""
    try:
        values = json.loads(line)
        if "validation_users" in values:
            return bool(values["epoch"] < epochs)
        return bool(values["step"] <= steps)
    except (ValueError, KeyError, TypeError):
        return False
