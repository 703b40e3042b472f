"""`hytrec`: train a model on an event log, and evaluate it.

Nothing heavy is imported here: `--help` needs no torch.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from hytrec.config import Branches, ModelConfig
from hytrec.data.logs.options import LogOptions, TimeUnit
from hytrec.data.split import Part, Repeats
from hytrec.program import program_options, run_program
from hytrec.training.options import TrainingOptions

app = typer.Typer(
    help="Train and evaluate HyTRec recommenders. "
    "Results go to stdout, progress to stderr; a known error is one line and exit code 1.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.callback()(program_options)

TRAIN_PACKAGES = ("torch", "duckdb", "safetensors", "scipy")
"""Packages of the extra that the commands import."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SoftmaxLayers = Annotated[int, typer.Option(help="M, softmax attention layers over the window.")]
FfnMultiple = Annotated[int, typer.Option(help="Feed-forward width as a multiple of D.")]
Patience = Annotated[int, typer.Option(help="Stop after this many epochs without a better validation NDCG@10.")]
MaxHistory = Annotated[int, typer.Option(help="Maximum events of a history in an epoch.")]
BatchEvents = Annotated[int, typer.Option(help="Events per batch, padding included.")]
Positions = Annotated[int, typer.Option(help="Positions per history at which the user vector is trained.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate, after warm-up.")]
WeightDecay = Annotated[float, typer.Option(help="Weight decay of matrices and embedding tables.")]
WarmupSteps = Annotated[int, typer.Option(help="Steps of linear learning-rate warm-up.")]
UnknownRate = Annotated[float, typer.Option(help="Share of input items replaced by the unknown item.")]
AverageDecay = Annotated[float, typer.Option(help="Decay of the weights' moving average.")]
RerankCandidates = Annotated[int, typer.Option(help="Retrieved items per position that the reranker learns from.")]
ValidationUsers = Annotated[int, typer.Option(help="Users evaluated after each epoch.")]
Threads = Annotated[int, typer.Option(help="torch threads; 0 for its default.")]
EVENTS_HELP = "Event log: Parquet, CSV or other separated text, JSON lines, RecBole .inter; files, folders, patterns."
UserColumn = Annotated[str | None, typer.Option(help="Column of the user, name or number; recognised by its name.")]
ItemColumn = Annotated[str | None, typer.Option(help="Column of the item, name or number; recognised by its name.")]
TimeColumn = Annotated[str | None, typer.Option(help="Column of the time, name or number; recognised by its name.")]
BehaviorColumn = Annotated[
    str | None, typer.Option(help="Column of the behavior, name or number; recognised by its name.")
]
Columns = Annotated[str | None, typer.Option(help="The columns in one: user,item,time[,behavior], names or numbers.")]
Separator = Annotated[str | None, typer.Option(help="Separator of a text file; found by looking.")]
Header = Annotated[bool | None, typer.Option(help="Whether a text file begins with names; found by looking.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of a text file, as latin-1; UTF-8 by default.")]
TimeUnitOption = Annotated[
    TimeUnit | None, typer.Option("--time-unit", help="Unit of numeric times; found by looking.")
]
RepeatsOption = Annotated[
    Repeats | None,
    typer.Option(
        "--repeats", help="Whether items that a user had before are recommended; by default as the log shows."
    ),
]


@app.command()
def train(
    events: Annotated[list[Path], typer.Argument(help=EVENTS_HELP, show_default=False)],
    *,
    output: Annotated[Path, typer.Option(help="Run folder to write.", show_default=False)],
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the last epoch in the run folder.")] = False,
    user_column: UserColumn = None,
    item_column: ItemColumn = None,
    time_column: TimeColumn = None,
    behavior_column: BehaviorColumn = None,
    columns: Columns = None,
    separator: Separator = None,
    header: Header = None,
    encoding: Encoding = None,
    time_unit: TimeUnitOption = None,
    repeats: RepeatsOption = None,
    width: Annotated[int, typer.Option(help="D, the model's width.")] = ModelConfig.width,
    heads: Annotated[int, typer.Option(help="H, heads of every layer.")] = ModelConfig.heads,
    tadn_layers: Annotated[int, typer.Option(help="L, TADN layers (linear attention).")] = ModelConfig.tadn_layers,
    softmax_layers: SoftmaxLayers = ModelConfig.softmax_layers,
    window: Annotated[int, typer.Option(help="W, recent events kept in full.")] = ModelConfig.window,
    experts: Annotated[int, typer.Option(help="E, experts of the reranker.")] = ModelConfig.experts,
    ffn_multiple: FfnMultiple = ModelConfig.ffn_multiple,
    dropout: Annotated[float, typer.Option(help="Dropout in training.")] = ModelConfig.dropout,
    branches: Annotated[Branches, typer.Option(help="Memories that the model reads.")] = ModelConfig.branches,
    seed: Annotated[int, typer.Option(help="Random seed of weights and sampling.")] = TrainingOptions.seed,
    epochs: Annotated[int, typer.Option(help="Maximum number of epochs.")] = TrainingOptions.epochs,
    max_minutes: Annotated[float | None, typer.Option(help="Maximum training time.")] = TrainingOptions.max_minutes,
    patience: Patience = TrainingOptions.patience,
    max_history: MaxHistory = TrainingOptions.max_history,
    batch_events: BatchEvents = TrainingOptions.batch_events,
    positions: Positions = TrainingOptions.positions,
    negatives: Annotated[int, typer.Option(help="Negatives of the sampled softmax.")] = TrainingOptions.negatives,
    learning_rate: LearningRate = TrainingOptions.learning_rate,
    weight_decay: WeightDecay = TrainingOptions.weight_decay,
    warmup_steps: WarmupSteps = TrainingOptions.warmup_steps,
    unknown_rate: UnknownRate = TrainingOptions.unknown_rate,
    average_decay: AverageDecay = TrainingOptions.average_decay,
    rerank_candidates: RerankCandidates = TrainingOptions.rerank_candidates,
    validation_users: ValidationUsers = TrainingOptions.validation_users,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Train a model and write a run folder."""
    options: TrainingOptions = _chosen(TrainingOptions, locals())
    sizes: dict[str, Any] = {
        "width": width,
        "heads": heads,
        "tadn_layers": tadn_layers,
        "softmax_layers": softmax_layers,
        "window": window,
        "experts": experts,
        "ffn_multiple": ffn_multiple,
        "dropout": dropout,
        "branches": branches,
    }
    log_options: LogOptions = _chosen(LogOptions, locals())
    ModelConfig(items=1, **sizes)  # before the log is read: a wrong size fails at once
    from hytrec.commands import train_run  # noqa: PLC0415 - torch

    result = train_run(
        events,
        output,
        log_options=log_options,
        repeats=repeats,
        sizes=sizes,
        options=options,
        resume=resume,
        threads=threads,
    )
    _show(result.as_json, result.as_text, as_json=as_json)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder of `hytrec train`.", show_default=False)],
    *,
    events: Annotated[list[Path] | None, typer.Option(help="Event log; by default the one trained on.")] = None,
    part: Annotated[Part, typer.Option(help="Which event of each history is predicted.")] = Part.TEST,
    baselines: Annotated[bool, typer.Option(help="Evaluate most-popular and item-kNN, too.")] = True,
    user_column: UserColumn = None,
    item_column: ItemColumn = None,
    time_column: TimeColumn = None,
    behavior_column: BehaviorColumn = None,
    columns: Columns = None,
    separator: Separator = None,
    header: Header = None,
    encoding: Encoding = None,
    time_unit: TimeUnitOption = None,
    repeats: RepeatsOption = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run against the whole catalogue, beside most-popular and item-kNN."""
    from hytrec.commands import evaluate_run  # noqa: PLC0415 - torch

    result = evaluate_run(
        run,
        events or [],
        log_options=_chosen(LogOptions, locals()),
        part=part,
        repeats=repeats,
        baselines=baselines,
        threads=threads,
    )
    _show(result.as_json, result.as_text, as_json=as_json)


def _chosen(kind: type[Any], given: dict[str, Any]) -> Any:
    """A dataclass of options, of those fields that are among a command's parameters."""
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})


def _show(values: dict[str, Any], text: str, *, as_json: bool) -> None:
    print(json.dumps(values, indent=2) if as_json else text)  # noqa: T201


def main() -> None:
    """Run the command line."""
    run_program(app, extras=dict.fromkeys(TRAIN_PACKAGES, "train"))
