"""Runs to measure with: a short real training, and one with weights set to remember."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hytrec.checkpoint import save_run
from hytrec.config import ModelConfig
from hytrec.data import Histories, read_histories
from hytrec.model import build_model
from hytrec.options import TrainingOptions
from hytrec.remember import set_to_remember
from hytrec.sampling import sampled_histories
from hytrec.trainer import StepLoss
from hytrec.training import Epoch, train
from hytrec.vocabulary import Vocabulary
from measures.progress import say

MINUTES = 1.5
QUICK_MINUTES = 0.05
NEWEST_EVENTS = 500
"""Of every history, to train and evaluate on: the few of over 10,000 would take minutes of their own."""
SAMPLE_EVENTS = 1_000
"""Longest history that the builds of weights set to remember are checked with; the measures bring longer ones."""


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
        newest(histories, NEWEST_EVENTS),
        vocabulary,
        output=output,
        config=_config(vocabulary),
        options=TrainingOptions(seed=seed, max_minutes=QUICK_MINUTES if quick else MINUTES),
        observer=EpochLines(),
    )


def save_remembering_run(events: Path, output: Path, *, seed: int) -> None:
    """A run for a log whose every g is at least 0.999 and where no event is lost among later ones."""
    histories, vocabulary = read_histories(events)
    config = _config(vocabulary)
    torch.manual_seed(seed)
    model = build_model(config).eval().requires_grad_(False)
    set_to_remember(model)
    save_run(
        output,
        config=config,
        training={"weights": "set to remember, for measuring"},
        model=model,
        vocabulary=vocabulary,
        samples=[sample for sample in sampled_histories(histories) if len(sample) <= SAMPLE_EVENTS],
    )


def newest(histories: Histories, events: int) -> Histories:
    """The last `events` events of every history."""
    lengths = histories.lengths
    kept = np.minimum(lengths, events)
    from_end = np.repeat(histories.offsets[1:], lengths) - np.arange(histories.times.size)
    chosen = from_end <= events
    return Histories(
        user_keys=histories.user_keys,
        offsets=np.concatenate([[0], np.cumsum(kept)]),
        item_rows=histories.item_rows[chosen],
        behavior_rows=histories.behavior_rows[chosen],
        times=histories.times[chosen],
    )


def _config(vocabulary: Vocabulary) -> ModelConfig:
    return ModelConfig(items=len(vocabulary.item_keys), behaviors=len(vocabulary.behavior_keys))
