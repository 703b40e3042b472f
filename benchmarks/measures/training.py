"""Runs to measure with: a short real training, and its copy with weights set to remember."""

from __future__ import annotations

from pathlib import Path

from hytrec.checkpoint import load_run, save_run
from hytrec.config import ModelConfig
from hytrec.data import read_histories
from hytrec.options import TrainingOptions
from hytrec.trainer import StepLoss
from hytrec.training import Epoch, train
from measures.progress import say

MINUTES = 1.5
QUICK_MINUTES = 0.05


class EpochLines:
    """Says how every epoch went."""

    def step(self, epoch: int, loss: StepLoss, events_per_s: float) -> None:
        """Nothing: a line a step would be too many."""

    def epoch(self, epoch: Epoch) -> None:
        """One line."""
        say(
            f"epoch {epoch.number}: NDCG@10 {epoch.validation:.4f} on the validation part, "
            f"{epoch.events_per_s:,.0f} events/s"
        )


def train_briefly(events: Path, output: Path, *, seed: int, quick: bool) -> None:
    """Train as `hytrec train` does with its defaults, for a minute or two."""
    histories, vocabulary = read_histories(events)
    train(
        histories,
        vocabulary,
        output=output,
        config=ModelConfig(items=len(vocabulary.item_keys), behaviors=len(vocabulary.behavior_keys)),
        options=TrainingOptions(seed=seed, max_minutes=QUICK_MINUTES if quick else MINUTES),
        observer=EpochLines(),
    )


def save_remembering_copy(source: Path, output: Path) -> None:
    """Copy a run, with every g of its model set to at least 0.999."""
    from hytrec.remember import set_to_remember  # noqa: PLC0415

    run = load_run(source)
    set_to_remember(run.model)
    save_run(
        output,
        config=run.config,
        training={"made_from": run.fingerprint, "weights": "set to remember, for measuring"},
        model=run.model,
        vocabulary=run.vocabulary,
        samples=run.samples,
    )
