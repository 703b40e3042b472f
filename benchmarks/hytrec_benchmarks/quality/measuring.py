"""One training or one log's baselines in a process of its own; what is done already is not done again."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from hytrec.data.split import Part, evaluation, training
from hytrec.evaluation import baselines
from hytrec.evaluation.evaluate import by_length
from hytrec.evaluation.tuned_baselines import tuned_baselines
from hytrec.run_folder import write_json
from hytrec.training.loop import train
from hytrec_benchmarks.quality.plan import Job, QualityLog, model_config, read_log, training_options
from hytrec_benchmarks.quality.ranks import KS, UserRanks, load_ranks, save_ranks

__all__ = ["Measured", "measure_baselines", "measure_job"]

_RANKS_FILE = "ranks.npz"
_NOTES_FILE = "quality.json"
_SETTINGS = ("neighbors", "shrinkage", "half_life")


class Times(NamedTuple):
    """When something began, by the clock and by the processor time of this process, in seconds."""

    clock: float
    cpu: float

    @classmethod
    def now(cls) -> Self:
        """Now."""
        return cls(time.monotonic(), time.process_time())

    def minutes_since(self) -> dict[str, float]:
        """Minutes from then on; those of the processor are the same whatever else the machine does."""
        now = Times.now()
        passed = {"minutes": now.clock - self.clock, "cpu_minutes": now.cpu - self.cpu}
        return {name: round(seconds / 60, 2) for name, seconds in passed.items()}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Test ranks by model, and what is to be told of how they came about.

    Args:
        ranks: of retriever and retrieve-then-rerank, or of the baselines.
        notes: JSON-able: minutes, minutes of a core, epochs, what was chosen.
    """

    ranks: dict[str, UserRanks]
    notes: dict[str, Any]


def measure_job(job: Job, *, data: Path, runs: Path, epochs: int | None = None) -> Measured:
    """Train, or load what an earlier call has measured.

    Args:
        data: folder of the event logs.
        runs: folder of the run folders.
        epochs: in place of the preset's, to try the machinery.
    """
    folder = runs / job.folder
    if (folder / _NOTES_FILE).exists():
        return _loaded(folder)
    start = Times.now()
    histories, vocabulary = read_log(data, job.log)
    items = len(vocabulary.item_keys)
    trained = train(
        histories,
        vocabulary,
        output=folder,
        config=model_config(job, items=items, behaviors=len(vocabulary.behavior_keys)),
        options=training_options(job, epochs=epochs),
        resume=folder.exists(),
        split=job.log.split,
    )
    order = by_length(evaluation(histories, Part.TEST, items=items, split=job.log.split))
    ranks = {name: UserRanks.of(own, order) for name, own in trained.ranks[Part.TEST.value].items()}
    chosen = json.loads((folder / "config.json").read_text())["training"]
    notes = {
        "epochs": len(trained.epochs),
        "best_epoch": chosen["best_epoch"],
        "start": chosen["start"],
        "neighbors": chosen["neighbors"],
        "reranker": chosen["reranker"],
        "validation": {name: own["ndcg@10"] for name, own in trained.metrics[Part.VALIDATION.value].items()},
    }
    return _saved(folder, ranks, notes, start)


def measure_baselines(log: QualityLog, *, data: Path, runs: Path) -> Measured:
    """Ranks of the baselines, tuned on the validation part, or what an earlier call has measured."""
    folder = runs / f"{log.key}-baselines"
    if (folder / _NOTES_FILE).exists():
        return _loaded(folder)
    start = Times.now()
    histories, vocabulary = read_log(data, log)
    items = len(vocabulary.item_keys)
    validation, test = (
        evaluation(histories, part, items=items, split=log.split) for part in (Part.VALIDATION, Part.TEST)
    )
    tuned = tuned_baselines(training(histories, log.split), validation, items=items)
    ranks = {name: UserRanks.of(baselines.ranked(own, test, ks=KS)) for name, own in tuned.items()}
    settings = {
        name: {option: getattr(own, option) for option in _SETTINGS if hasattr(own, option)}
        for name, own in tuned.items()
    }
    return _saved(folder, ranks, {"settings": settings}, start)


def _saved(folder: Path, ranks: dict[str, UserRanks], notes: dict[str, Any], start: Times) -> Measured:
    folder.mkdir(parents=True, exist_ok=True)
    notes = {**start.minutes_since(), **notes}
    save_ranks(folder / _RANKS_FILE, ranks)
    write_json(folder / _NOTES_FILE, notes)
    return Measured(ranks=ranks, notes=notes)


def _loaded(folder: Path) -> Measured:
    return Measured(ranks=load_ranks(folder / _RANKS_FILE), notes=json.loads((folder / _NOTES_FILE).read_text()))
