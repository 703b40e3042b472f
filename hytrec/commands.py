"""`hytrec train` and `hytrec evaluate`, after their options are parsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hytrec.config import ModelConfig
from hytrec.data.columns import LogColumns
from hytrec.data.histories import read_histories
from hytrec.data.sampling import training_users
from hytrec.data.split import Part, evaluation, training
from hytrec.documents import document_from
from hytrec.errors import ConfigError, RunError
from hytrec.evaluation.baselines import measure_baselines
from hytrec.evaluation.evaluate import evaluate
from hytrec.evaluation.tables import half_life_lines, metric_lines
from hytrec.progress_bar import progress_bar
from hytrec.run_folder import CONFIG_FILE, Run, load_run
from hytrec.training.checkpoint import Epoch
from hytrec.training.loop import train
from hytrec.training.options import TrainingOptions
from hytrec.training.trainer import StepLoss

__all__ = ["CommandOutput", "evaluate_run", "train_run"]


@dataclass(frozen=True, kw_only=True)
class CommandOutput:
    """A command's result, as JSON values and as text."""

    as_json: dict[str, Any]
    as_text: str


def train_run(
    events: Path,
    output: Path,
    *,
    columns: LogColumns,
    sizes: Mapping[str, Any],
    options: TrainingOptions,
    resume: bool,
    threads: int,
) -> CommandOutput:
    """Read the log, train, write the run folder.

    Args:
        sizes: named arguments of `ModelConfig`, except those that follow from the log.
        threads: torch's; 0 is its default.
    """
    _use_threads(threads)
    histories, vocabulary = read_histories(events, **asdict(columns))
    config = ModelConfig(items=len(vocabulary.item_keys), behaviors=len(vocabulary.behavior_keys), **sizes)
    users = training_users(training(histories)).size
    with _TrainingBar(options, users) as bar:
        trained = train(
            histories,
            vocabulary,
            output=output,
            config=config,
            options=options,
            resume=resume,
            observer=bar,
            source=asdict(_Source(events=str(events.absolute()), **asdict(columns))),
        )
    values = {"run": str(output), "metrics": trained.metrics, "half_life_events": trained.half_lives}
    lines = [f"{output}: {len(trained.epochs)} epochs", "", *metric_lines(trained.metrics[Part.TEST]), ""]
    return CommandOutput(as_json=values, as_text="\n".join(lines + half_life_lines(trained.half_lives)))


def evaluate_run(
    run_folder: Path,
    events: Path | None,
    *,
    columns: LogColumns,
    part: Part,
    allow_repeats: bool,
    baselines: bool,
    threads: int,
) -> CommandOutput:
    """Evaluate a run on a log, with the baselines (test part only: they are tuned on the validation part).

    Raises:
        RunError: no log is given and the run does not say which one it was trained on.
    """
    _use_threads(threads)
    run = load_run(run_folder)
    if events is None:
        source = asdict(_source_of(run))
        events, columns = Path(source.pop("events")), LogColumns(**source)
    histories, _ = read_histories(events, **asdict(columns), vocabulary=run.vocabulary)
    chosen = evaluation(histories, part, items=run.config.items, allow_repeats=allow_repeats)
    with progress_bar("evaluating", len(chosen)) as advance:
        measured = evaluate(run.model, chosen, progress=advance)
    if baselines and part is Part.TEST:
        measured |= measure_baselines(histories, items=run.config.items, allow_repeats=allow_repeats)
    counts = {
        "users": len(chosen),
        "short_users": chosen.short_users,
        "unanswerable_users": chosen.unanswerable_users,
    }
    lines = metric_lines(measured)
    left_out = chosen.short_users + chosen.unanswerable_users
    lines.append(f"{len(chosen)} users, {part} part; {left_out} could not be evaluated")
    return CommandOutput(as_json={"part": part.value, **counts, "metrics": measured}, as_text="\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a run's log came from: the file and named arguments of `read_histories`."""

    events: str
    user_column: str
    item_column: str
    time_column: str
    behavior_column: str | None


def _source_of(run: Run) -> _Source:
    source = run.training.get("source")
    if not source:
        raise RunError(f"{run.path} does not say which log it was trained on; give it with --events")
    try:
        return document_from(source, _Source)
    except ConfigError as error:
        raise RunError(
            f"{run.path / CONFIG_FILE} is damaged (training.source: {error}); give the log with --events"
        ) from error


def _use_threads(threads: int) -> None:
    if threads > 0:
        torch.set_num_threads(threads)


class _TrainingBar:
    """A progress bar on stderr with loss and throughput, and a line per epoch."""

    def __init__(self, options: TrainingOptions, users: int) -> None:
        self._console = Console(stderr=True)
        self._options = options
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("{task.fields[speed]:,.0f} events/s"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("training", total=users, epoch=0, loss=float("nan"), speed=0.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, epoch: int, loss: StepLoss, events_per_s: float) -> None:
        """After every step."""
        self._progress.update(self._task, advance=loss.users, epoch=epoch, loss=loss.total, speed=events_per_s)

    def epoch(self, epoch: Epoch) -> None:
        """After every epoch and its validation."""
        self._console.print(
            f"epoch {epoch.number}: loss {epoch.long:.3f} (long) {epoch.user:.3f} (user) {epoch.rerank:.3f} (rerank), "
            f"validation NDCG@10 {epoch.validation:.4f}, {epoch.events_per_s:,.0f} events/s"
        )
        self._progress.update(self._task, completed=0, epoch=epoch.number + 1)
