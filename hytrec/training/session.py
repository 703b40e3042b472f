"""The epochs of a training: steps, reports, validation, checkpoints, and the stop that a signal asks for."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch.nn.utils import parametrize

from hytrec.data.split import Evaluation, Part
from hytrec.errors import Interrupted, TrainingError
from hytrec.evaluation.evaluate import RETRIEVER, evaluate
from hytrec.training.checkpoint import Epoch, Progress, Resumable, Sums
from hytrec.training.journal import Journal
from hytrec.training.options import TrainingOptions
from hytrec.training.trainer import StepLoss, Trainer

__all__ = ["Observer", "Session", "Silent"]


class Observer(Protocol):
    """Receives the progress of a training."""

    def step(self, epoch: int, loss: StepLoss, events_per_s: float) -> None:
        """After every step."""

    def epoch(self, epoch: Epoch) -> None:
        """After every epoch and its validation."""

    def finishing(self, work: str, share: float = 0.0) -> None:
        """After the last epoch: what is done now, and what share of it is."""


class Silent:
    """An observer that does nothing."""

    def step(self, epoch: int, loss: StepLoss, events_per_s: float) -> None:
        """Nothing."""

    def epoch(self, epoch: Epoch) -> None:
        """Nothing."""

    def finishing(self, work: str, share: float = 0.0) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A training under way."""

    trainer: Trainer
    validation: Evaluation
    progress: Progress
    resumable: Resumable
    options: TrainingOptions
    observer: Observer
    journal: Journal
    stop: Callable[[], int | None]

    def train_epoch(self) -> None:
        """Train one epoch, or what is left of it or of the minutes, validate, and save a checkpoint."""
        progress, sums = self.progress, self.progress.sums
        number, before = len(progress.epochs), sums.seconds
        start = saved = time.monotonic()
        allowed = math.inf if self.options.max_minutes is None else 60 * self.options.max_minutes
        for loss in self.trainer.epoch(number, spent=lambda: progress.seconds / allowed):
            self._count(number, loss, sums, seconds=before + time.monotonic() - start)
            self.stop_if_asked()
            if time.monotonic() - saved > 60 * self.options.checkpoint_minutes:
                self.resumable.save(self.trainer, progress)
                saved = time.monotonic()
            if progress.seconds > allowed:
                break
        self._validate(number, sums)
        self.trainer.end_epoch()
        progress.sums = Sums()
        self.resumable.save(self.trainer, progress)
        self.stop_if_asked()

    def _count(self, number: int, loss: StepLoss, sums: Sums, *, seconds: float) -> None:
        """Add up a step and report it."""
        if not math.isfinite(loss.total):
            raise TrainingError(
                f"the loss is {loss.total} in epoch {number}; lower --learning-rate "
                f"(it is {self.options.learning_rate:g})"
            )
        self.progress.seconds += seconds - sums.seconds
        sums.seconds = seconds
        sums.steps += 1
        sums.events += loss.events
        sums.long += loss.long
        sums.user += loss.user
        speed = sums.events / seconds
        self.observer.step(number, loss, speed)
        trainer = self.trainer
        self.journal.step(trainer.steps, number, loss, learning_rate=trainer.learning_rate, events_per_s=speed)

    def _validate(self, number: int, sums: Sums) -> None:
        """Evaluate the averaged weights, and keep them if they are the best so far."""
        progress, start = self.progress, time.monotonic()
        with parametrize.cached():
            measured = evaluate(
                self.trainer.average, self.validation, ks=(10,), rerank=False, progress=lambda _: self.stop_if_asked()
            )
        gain = measured[RETRIEVER]["ndcg@10"]
        best = gain > progress.best
        if best:
            progress.best, progress.best_epoch = gain, number
            progress.best_weights = copy.deepcopy(self.trainer.average.state_dict())
        progress.seconds += time.monotonic() - start
        epoch = Epoch(
            number=number,
            long=sums.long / sums.steps,
            user=sums.user / sums.steps,
            validation=gain,
            seconds=sums.seconds,
            events_per_s=sums.events / sums.seconds,
            validation_users=len(self.validation),
        )
        progress.epochs.append(epoch)
        self.journal.validation(self.trainer.steps, epoch, best=best)
        self.observer.epoch(epoch)

    def measuring(self, part: Part, users: Evaluation) -> Callable[[int], None]:
        """What to call with the number of users of every batch that is measured."""
        work, done = f"measuring {len(users):,} users of the {part.value} part", 0
        self.observer.finishing(work)

        def measured(batch: int) -> None:
            nonlocal done
            done += batch
            self.observer.finishing(work, done / len(users))
            self.stop_if_asked()

        return measured

    def stop_if_asked(self) -> None:
        """Raises: Interrupted: a stop was asked for."""
        signal = self.stop()
        if signal is not None:
            self.resumable.save(self.trainer, self.progress)
            folder, epochs = self.resumable.file.parent, len(self.progress.epochs)
            raise Interrupted(
                f"interrupted after step {self.trainer.steps:,} ({epochs} epochs are finished), which is saved; "
                f"resume with: hytrec train --resume {folder}",
                signal,
            )
