"""`hytrec train` and `hytrec evaluate`, after their options are parsed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hytrec.config import ModelConfig
from hytrec.data.logs.options import LogOptions
from hytrec.data.split import Part, Repeats, Split, evaluation, repeat_share
from hytrec.data.target_behaviors import behavior_rows_of
from hytrec.documents import document_from
from hytrec.errors import ConfigError, RunError
from hytrec.evaluation.evaluate import RETRIEVER, evaluate
from hytrec.evaluation.tables import half_life_lines, metric_lines
from hytrec.evaluation.tuned_baselines import measure_baselines
from hytrec.event_log import EventLog, read_events, suggested_repeats
from hytrec.option_file import OPTION_FILE, option_text
from hytrec.progress_bar import progress_bar
from hytrec.run_folder import CONFIG_FILE, Run, load_run
from hytrec.training.devices import chosen_device, chosen_precision, device_name
from hytrec.training.loop import train
from hytrec.training.options import TrainingOptions
from hytrec.training.stop_signals import StopSignals
from hytrec.training.training_bar import TrainingBar

LOG_FILE = "log.json"

__all__ = ["CommandOutput", "evaluate_run", "train_run"]


@dataclass(frozen=True, kw_only=True)
class CommandOutput:
    """A command's result, as JSON values and as text."""

    as_json: dict[str, Any]
    as_text: str


def train_run(
    log: EventLog,
    output: Path,
    *,
    repeats: Repeats | None,
    split: Split,
    target_behaviors: Sequence[str],
    sizes: Mapping[str, Any],
    options: TrainingOptions,
    resume: bool,
    threads: int,
) -> CommandOutput:
    """Train, write the run folder.

    Args:
        repeats: None: as the log suggests.
        split: how the log is cut.
        target_behaviors: names of the behaviors to predict; none: all events are.
        sizes: named arguments of `ModelConfig`, except those that follow from the log.
        threads: torch's; 0 is its default.
    """
    _use_threads(threads)
    device = chosen_device(options.device)
    precision = chosen_precision(options, device)
    vocabulary = log.vocabulary
    behaviors = behavior_rows_of(vocabulary, target_behaviors)
    share = repeat_share(log.histories, behaviors) if behaviors else log.report.repeat_share
    allow_repeats = (repeats or suggested_repeats(share, target_behaviors)) is Repeats.ALLOW
    config = ModelConfig(items=len(vocabulary.item_keys), behaviors=len(vocabulary.behavior_keys), **sizes)
    paths = [str(path.absolute()) for path in log.paths]
    given = {
        "events": paths,
        **log.options.to_dict(),
        "repeats": Repeats.of(allowed=allow_repeats).value,
        "split": split.value,
        "target_behavior": list(target_behaviors) or None,
        "item_table": None if log.item_table is None else str(Path(log.item_table["path"]).absolute()),
        **sizes,
        **options.to_dict(),
        "threads": threads,
    }
    told = log.report.to_dict() | ({} if log.item_table is None else {"item_table": log.item_table})
    documents = {LOG_FILE: json.dumps(told, indent=2) + "\n", OPTION_FILE: option_text(given)}
    Console(stderr=True, highlight=False).print(
        f"training on {device_name(device)}, precision {precision}", markup=False, soft_wrap=True
    )
    with StopSignals() as signals, TrainingBar(options) as bar:
        trained = train(
            log.histories,
            vocabulary,
            output=output,
            config=config,
            options=options,
            resume=resume,
            observer=bar,
            source=asdict(_Source(events=paths, options=log.options)),
            allow_repeats=allow_repeats,
            split=split,
            behaviors=behaviors,
            features=log.features,
            documents=documents,
            stop=lambda: signals.received,
        )
    values = {
        "run": str(output),
        "log": told,
        "device": device_name(device),
        "precision": precision.value,
        "repeats": Repeats.of(allowed=allow_repeats).value,
        "split": split.value,
        "target_behaviors": list(target_behaviors),
        "metrics": trained.metrics,
        "half_life_events": trained.half_lives,
    }
    validated = min(trained.metrics[Part.VALIDATION][RETRIEVER]["users"], options.validation_users)
    epochs = f"{output}: {len(trained.epochs)} epochs, the best chosen on {validated:,.0f} users"
    lines = [epochs, "", *metric_lines(trained.metrics[Part.TEST]), ""]
    return CommandOutput(as_json=values, as_text="\n".join(lines + half_life_lines(trained.half_lives)))


def evaluate_run(
    run_folder: Path,
    events: Sequence[Path],
    *,
    log_options: LogOptions,
    part: Part,
    repeats: Repeats | None,
    split: Split | None,
    target_behaviors: Sequence[str] | None,
    baselines: bool,
    device: str,
    threads: int,
) -> CommandOutput:
    """Evaluate a run on a log, with the baselines (test part only: they are tuned on the validation part).

    Args:
        run_folder: of `hytrec train`.
        events: files, folders and patterns; none: the log that the run was trained on, read as then.
        log_options: what is said about them.
        part: which event of each history is predicted.
        repeats, split, target_behaviors: None: as in the run's training.
        baselines: whether to measure them.
        device: "auto", "cpu", "cuda" or "cuda:n".
        threads: torch's; 0 is its default.

    Raises:
        RunError: no log is given and the run does not say which one it was trained on.
        TrainingError: the device is not there.
    """
    _use_threads(threads)
    place = chosen_device(device)
    run = load_run(run_folder)
    if not events:
        source = _source_of(run)
        events, log_options = [Path(path) for path in source.events], source.options
    log = read_events(events, log_options, vocabulary=run.vocabulary)
    allow_repeats = run.training.get("allow_repeats", False) if repeats is None else repeats is Repeats.ALLOW
    split = split or Split(run.training.get("split", Split.LAST))
    names = run.training.get("target_behaviors", []) if target_behaviors is None else list(target_behaviors)
    items, behaviors = run.config.items, behavior_rows_of(run.vocabulary, names)
    chosen = evaluation(log.histories, part, items=items, allow_repeats=allow_repeats, split=split, behaviors=behaviors)
    with progress_bar("evaluating", len(chosen)) as advance:
        measured = evaluate(run.model.to(place), chosen, progress=advance)
    if baselines and part is Part.TEST:
        measured |= measure_baselines(
            log.histories, items=items, allow_repeats=allow_repeats, split=split, behaviors=behaviors
        )
    told = {
        "part": part.value,
        "device": device_name(place),
        "split": split.value,
        "repeats": Repeats.of(allowed=allow_repeats).value,
        "target_behaviors": names,
    }
    counts = {
        "users": len(chosen),
        "short_users": chosen.short_users,
        "unanswerable_users": chosen.unanswerable_users,
    }
    lines = metric_lines(measured)
    left_out = chosen.short_users + chosen.unanswerable_users
    asked = f"events of {', '.join(names)}, " if names else ""
    protocol = f"{part} part, {asked}split: {split}, repeats: {told['repeats']}"
    lines.append(f"{len(chosen)} users, {protocol}; {left_out} could not be evaluated")
    values = {**told, **counts, "log": log.report.to_dict(), "metrics": measured}
    return CommandOutput(as_json=values, as_text="\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a run's log came from: paths, and what was said about them."""

    events: list[str]
    options: LogOptions


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
