"""What is trained and on which logs: one preset for every log, whatever differs is chosen by the training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hytrec.config import Branches, ModelConfig
from hytrec.data.histories import Histories, read_histories
from hytrec.data.split import Split
from hytrec.data.vocabulary import Vocabulary
from hytrec.training.options import TrainingOptions

__all__ = [
    "LOGS",
    "VARIANTS",
    "VARIATIONS",
    "Job",
    "QualityLog",
    "jobs",
    "log_path",
    "model_config",
    "preset",
    "read_log",
    "shuffled_ties",
    "training_options",
]


@dataclass(frozen=True, kw_only=True)
class QualityLog:
    """An event log of the report.

    Args:
        name: as people write it.
        key: as it ends a figure's name.
        file: in the data folder.
        split: how it is cut.
        shuffled: events of a user at one time are put in a random order, the same for every training.
    """

    name: str
    key: str
    file: str
    split: Split = Split.LAST
    shuffled: bool = False

    @property
    def protocol(self) -> str:
        """What is done otherwise than with most logs, in words; nothing for most."""
        cut = (
            "one moment for everybody, before which is all training; predicted is the first event of a user after it, "
            "until 90% of the log's events for the validation, after that for the test (`hytrec train --split time`)"
        )
        ties = "events of a user at one time are in a random order instead of the file's, in all parts and models"
        return "; ".join(
            words for words, is_done in ((cut, self.split is Split.TIME), (ties, self.shuffled)) if is_done
        )


LOGS = (
    QualityLog(name="MovieLens-100K", key="ml100k", file="ml_100k.parquet"),
    QualityLog(name="Amazon Beauty", key="beauty", file="amazon_beauty.parquet"),
)
VARIATIONS = (
    QualityLog(name="MovieLens-100K, cut by time", key="ml100k_time", file="ml_100k.parquet", split=Split.TIME),
    QualityLog(name="MovieLens-100K, ties shuffled", key="ml100k_ties", file="ml_100k.parquet", shuffled=True),
    QualityLog(name="Amazon Beauty, cut by time", key="beauty_time", file="amazon_beauty.parquet", split=Split.TIME),
    QualityLog(name="Amazon Beauty, ties shuffled", key="beauty_ties", file="amazon_beauty.parquet", shuffled=True),
)
"""The same logs under other protocols. Many events of a user have one time, and the order of the file decides among
them: 44% of neighbors in Beauty, whose times are days."""
VARIANTS = {
    Branches.BOTH: "HyTRec",
    Branches.NONE: "no encoder",
    Branches.LONG: "long alone",
    Branches.SHORT: "short alone",
}
"""Ablations: what attention is read. Window sum and neighbors are part of all four."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    log: QualityLog
    branches: Branches
    seed: int

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return f"{self.log.key}-{self.branches}-{self.seed}"


def jobs(*, seeds: int, branch_seeds: int, variation_seeds: int) -> Iterator[Job]:
    """Every training: first the whole model and the one without encoder, seed by seed, then each branch alone.

    Args:
        seeds: of the first two. branch_seeds: of each branch. variation_seeds: of the whole model on `VARIATIONS`.
    """
    plan: list[tuple[tuple[Branches, ...], tuple[QualityLog, ...], int]] = [
        ((Branches.BOTH, Branches.NONE), LOGS, seeds),
        ((Branches.LONG, Branches.SHORT), LOGS, branch_seeds),
        ((Branches.BOTH,), VARIATIONS, variation_seeds),
    ]
    for variants, logs, count in plan:
        for seed in range(count):
            for branches in variants:
                yield from (Job(log=log, branches=branches, seed=seed) for log in logs)


def model_config(job: Job, *, items: int, behaviors: int) -> ModelConfig:
    """The preset's sizes: half of the default ones, as logs of 100,000 events allow."""
    return ModelConfig(
        items=items,
        behaviors=behaviors,
        width=64,
        tadn_layers=3,
        softmax_layers=1,
        window=32,
        dropout=0.4,
        branches=job.branches,
    )


def training_options(job: Job, *, epochs: int | None = None) -> TrainingOptions:
    """The preset's training."""
    return TrainingOptions(
        seed=job.seed,
        epochs=epochs or 5,
        patience=2,
        max_history=150,
        batch_events=1024,
        positions=8,
        learning_rate=4e-3,
        average_decay=0.99,
        test_users=25_000,
        device="cpu",
    )


_NO_PRESET = {"device", "test_users"}


def preset() -> dict[str, int | float]:
    """What differs from the defaults of `hytrec train`, by option."""
    job = Job(log=LOGS[0], branches=Branches.BOTH, seed=0)
    chosen = model_config(job, items=1, behaviors=0).to_dict() | training_options(job).to_dict()
    usual = ModelConfig(items=1).to_dict() | TrainingOptions().to_dict()
    return {name: value for name, value in chosen.items() if value != usual[name] and name not in _NO_PRESET}


def log_path(data: Path, log: QualityLog) -> Path:
    """Where a log is."""
    return data / log.file


def read_log(data: Path, log: QualityLog) -> tuple[Histories, Vocabulary]:
    """The log, its ties shuffled where it says so."""
    histories, vocabulary = read_histories(log_path(data, log))
    return (shuffled_ties(histories) if log.shuffled else histories), vocabulary


def shuffled_ties(histories: Histories) -> Histories:
    """Every user's events that have one time in a random order; the same at every call."""
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    order = np.lexsort((np.random.default_rng(0).random(users.size), histories.times, users))
    return replace(histories, item_rows=histories.item_rows[order], behavior_rows=histories.behavior_rows[order])
