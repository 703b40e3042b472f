"""What every measure is given, and the runs and repositories they share: made when first asked for, then kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np

from hytrec.checkpoint import CONFIG_FILE
from hytrec.data import Histories, History, read_histories
from hytrec.errors import DataError
from hytrec.vocabulary import Vocabulary
from hytrec_export.options import BuildOptions, Steps
from hytrec_export.pipeline import build
from hytrec_export.serving import Limits
from measures.progress import say
from measures.training import save_remembering_run, train_briefly

LONG_EVENTS = 20_480
"""Largest call of the repositories for whole histories of more than 10,000 events."""

LONG = 10_000
"""A long history has more events than this."""
QUICK_EVENTS = 300


class Log(StrEnum):
    """A real event log; the value is its file's stem in the data folder."""

    RATINGS = "ml_100k"
    EDITS = "slackbuilds_edits"


class Weights(StrEnum):
    """Which weights a run has."""

    TRAINED = "trained"
    REMEMBERING = "remembering"
    """set so that every g is at least 0.999: nothing of a history fades away before it is compared"""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a measurement works and how much of it.

    Args:
        folder: everything that is made goes here; what is there already is used again.
        data: folder of the event logs.
        runs: trained runs to use; the others are trained, briefly.
        seed: of every random choice.
        quick: small sizes, to try the machinery; the figures then mean nothing.
    """

    folder: Path
    data: Path
    runs: Mapping[Log, Path] = field(default_factory=dict)
    seed: int = 0
    quick: bool = False

    def log_file(self, log: Log) -> Path:
        """Path of a log.

        Raises:
            DataError: it is not there.
        """
        path = self.data / f"{log.value}.parquet"
        if not path.is_file():
            raise DataError(f"{path} is missing; set HYTREC_DATA to the folder that holds {path.name}")
        return path

    def histories(self, log: Log, vocabulary: Vocabulary) -> Histories:
        """All histories of a log, as rows of a run's vocabulary."""
        histories, _ = read_histories(self.log_file(log), vocabulary=vocabulary)
        return histories

    def long_histories(self, vocabulary: Vocabulary) -> list[History]:
        """The histories of more than 10,000 events, longest first; only their beginnings in quick mode.

        Raises:
            DataError: the log has none.
        """
        histories = self.histories(Log.EDITS, vocabulary)
        users = [user for user in np.argsort(-histories.lengths, kind="stable") if histories.lengths[user] > LONG]
        if not users:
            raise DataError(
                f"{self.log_file(Log.EDITS)} has no history of more than {LONG} events; give the log that has some"
            )
        return [
            histories.history(user).before(QUICK_EVENTS if self.quick else histories.lengths[user]) for user in users
        ]

    def run(self, log: Log, weights: Weights = Weights.TRAINED) -> Path:
        """Run folder of a model for a log; trained first if there is none."""
        if weights is Weights.REMEMBERING:
            return self._remembering_run(log)
        if log in self.runs:
            return self.runs[log]
        path = self.folder / f"run-{log.value}"
        if not (path / CONFIG_FILE).exists():
            say(f"training on {log.value}")
            train_briefly(self.log_file(log), path, seed=self.seed, quick=self.quick)
        return path

    def repository(
        self,
        log: Log,
        weights: Weights = Weights.TRAINED,
        *,
        max_events: int | None = None,
        steps: Steps = Steps.TOGETHER,
    ) -> Path:
        """Model repository built from a run.

        Args:
            max_events: largest call; the build's default if not given.
            steps: whether one model takes all steps of a call.
        """
        limits = Limits() if max_events is None else Limits(max_events=max_events)
        path = self.folder / f"repository-{log.value}-{weights.value}-{limits.max_events}-{steps.value}"
        if not path.exists():
            run = self.run(log, weights)
            say(f"building {path.name}")
            build(BuildOptions(run=run, output=path, limits=limits, steps=steps))
        return path

    def new_folder(self, name: str) -> Path:
        """An empty folder of a measure's own, for example for a state store."""
        for number in range(1_000_000):
            path = self.folder / f"{name}-{number}"
            if not path.exists():
                path.mkdir(parents=True)
                return path
        raise FileExistsError(self.folder / name)

    def _remembering_run(self, log: Log) -> Path:
        path = self.folder / f"run-{log.value}-remembering"
        if not (path / CONFIG_FILE).exists():
            save_remembering_run(self.log_file(log), path, seed=self.seed)
        return path
