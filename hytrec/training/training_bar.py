"""Progress of a training on stderr: a bar with loss, throughput and time left, and a line per epoch."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from hytrec.training.checkpoint import Epoch
from hytrec.training.options import TrainingOptions
from hytrec.training.trainer import StepLoss

__all__ = ["TrainingBar", "time_left"]


class TrainingBar:
    """An observer of `hytrec.training.loop.train`; stdout is left alone."""

    def __init__(self, options: TrainingOptions) -> None:
        self._console = Console(stderr=True)
        self._start = time.monotonic()
        self._first: float | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[details]}"),
            console=self._console,
        )
        self._epochs = options.epochs
        self._task = self._progress.add_task(f"epoch 0 of {self._epochs}", total=1.0, details="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, epoch: int, loss: StepLoss, events_per_s: float) -> None:
        """After every step."""
        if self._first is None:
            self._start, self._first = time.monotonic(), loss.done
        left = time_left(time.monotonic() - self._start, since=self._first, done=loss.done)
        self._progress.update(
            self._task,
            description=f"epoch {epoch} of {self._epochs}",
            completed=loss.epoch_share,
            details=f"loss {loss.total:.3f} {events_per_s:,.0f} events/s {left}",
        )

    def epoch(self, epoch: Epoch) -> None:
        """After every epoch and its validation."""
        self._console.print(
            f"epoch {epoch.number}: loss {epoch.long:.3f} (long) {epoch.user:.3f} (user), "
            f"validation NDCG@10 {epoch.validation:.4f} of {epoch.validation_users:,} users, "
            f"{epoch.events_per_s:,.0f} events/s"
        )
        self._progress.update(self._task, completed=0, description=f"epoch {epoch.number + 1} of {self._epochs}")

    def finishing(self, work: str, share: float = 0.0) -> None:
        """After the last epoch."""
        self._progress.update(self._task, completed=share, description=work, details="")


def time_left(elapsed_s: float, *, since: float, done: float) -> str:
    """Text as "at most 1:02:03 left", or nothing at first: a training that gets no better ends earlier.

    Args:
        elapsed_s: since `since` of the training was done.
        since: share of the training, in [0, 1].
        done: share of the training now.
    """
    if done <= since:
        return ""
    seconds = round(elapsed_s * (1 - done) / (done - since))
    return f"at most {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
