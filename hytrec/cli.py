"""`hytrec`: train a model on an event log, and measure it.

Nothing heavy is imported here: `--help` needs no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hytrec.config import Branches, ModelConfig
from hytrec.data.split import Part
from hytrec.program import program_options, run_program
from hytrec.training.options import TrainingOptions

app = typer.Typer(
    help="Train and measure HyTRec recommenders. "
    "Results go to stdout, progress to stderr; a known error is one line and exit code 1.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.callback()(program_options)

TRAIN_PACKAGES = ("torch", "pyarrow", "safetensors", "scipy")
"""What the commands import that comes with the extra."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Threads = Annotated[int, typer.Option(help="Threads of torch; 0 leaves the choice to it.")]
UserColumn = Annotated[str, typer.Option(help="Column of the user.")]
ItemColumn = Annotated[str, typer.Option(help="Column of the item.")]
TimeColumn = Annotated[str, typer.Option(help="Column of the unix time in seconds.")]
BehaviorColumn = Annotated[str | None, typer.Option(help='Column of the behavior; "behavior" if there is one.')]


@app.command()
def train(
    events: Annotated[Path, typer.Argument(help="Event log: Parquet, CSV or RecBole .inter.", show_default=False)],
    *,
    output: Annotated[Path, typer.Option(help="Run folder to write.", show_default=False)],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch in the run folder.")] = False,
    user_column: UserColumn = "user_id",
    item_column: ItemColumn = "item_id",
    time_column: TimeColumn = "timestamp",
    behavior_column: BehaviorColumn = None,
    width: Annotated[int, typer.Option(help="D, the model's width.")] = ModelConfig.width,
    heads: Annotated[int, typer.Option(help="H, heads of every layer.")] = ModelConfig.heads,
    tadn_layers: Annotated[int, typer.Option(help="L, layers of the long memory.")] = ModelConfig.tadn_layers,
    softmax_layers: Annotated[int, typer.Option(help="M, layers over the window.")] = ModelConfig.softmax_layers,
    window: Annotated[int, typer.Option(help="W, recent events kept as they are.")] = ModelConfig.window,
    experts: Annotated[int, typer.Option(help="E, experts of the reranker.")] = ModelConfig.experts,
    ffn_multiple: Annotated[int, typer.Option(help="Feed-forward width over D.")] = ModelConfig.ffn_multiple,
    dropout: Annotated[float, typer.Option(help="Dropout in training.")] = ModelConfig.dropout,
    branches: Annotated[Branches, typer.Option(help="Memories that are read.")] = ModelConfig.branches,
    seed: Annotated[int, typer.Option(help="Of the weights and all that is drawn.")] = TrainingOptions.seed,
    epochs: Annotated[int, typer.Option(help="At most this many.")] = TrainingOptions.epochs,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this time.")] = TrainingOptions.max_minutes,
    patience: Annotated[int, typer.Option(help="Epochs without a gain before it stops.")] = TrainingOptions.patience,
    max_history: Annotated[int, typer.Option(help="Events of a history in an epoch.")] = TrainingOptions.max_history,
    batch_events: Annotated[int, typer.Option(help="Events of a batch.")] = TrainingOptions.batch_events,
    positions: Annotated[int, typer.Option(help="User vectors trained in a history.")] = TrainingOptions.positions,
    negatives: Annotated[int, typer.Option(help="Items drawn for sampled softmax.")] = TrainingOptions.negatives,
    learning_rate: Annotated[float, typer.Option(help="After the warm-up.")] = TrainingOptions.learning_rate,
    weight_decay: Annotated[float, typer.Option(help="Of matrices and tables.")] = TrainingOptions.weight_decay,
    warmup_steps: Annotated[int, typer.Option(help="Execution of rising rate.")] = TrainingOptions.warmup_steps,
    unknown_rate: Annotated[float, typer.Option(help="Share of items hidden.")] = TrainingOptions.unknown_rate,
    average_decay: Annotated[float, typer.Option(help="Of the weights' average.")] = TrainingOptions.average_decay,
    rerank_candidates: Annotated[
        int, typer.Option(help="Retrieved items the reranker learns from.")
    ] = TrainingOptions.rerank_candidates,
    validation_users: Annotated[
        int, typer.Option(help="Users measured after an epoch.")
    ] = TrainingOptions.validation_users,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Train a model and leave a run folder."""
    options = TrainingOptions(
        seed=seed,
        epochs=epochs,
        max_minutes=max_minutes,
        patience=patience,
        max_history=max_history,
        batch_events=batch_events,
        positions=positions,
        negatives=negatives,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        unknown_rate=unknown_rate,
        average_decay=average_decay,
        rerank_candidates=rerank_candidates,
        validation_users=validation_users,
    )
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
    ModelConfig(items=1, **sizes)  # before the log is read: a wrong size is told at once
    from hytrec.commands import train_run  # noqa: PLC0415 - torch

    columns = _columns(user_column, item_column, time_column, behavior_column)
    result = train_run(events, output, columns=columns, sizes=sizes, options=options, resume=resume, threads=threads)
    _show(result.as_json, result.as_text, as_json=as_json)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder of `hytrec train`.", show_default=False)],
    *,
    events: Annotated[Path | None, typer.Option(help="Event log; by default the one it was trained on.")] = None,
    part: Annotated[Part, typer.Option(help="Which event of a history is predicted.")] = Part.TEST,
    allow_repeats: Annotated[bool, typer.Option("--allow-repeats", help="Rank items seen before too.")] = False,
    baselines: Annotated[bool, typer.Option(help="Measure most-popular and item-kNN too.")] = True,
    user_column: UserColumn = "user_id",
    item_column: ItemColumn = "item_id",
    time_column: TimeColumn = "timestamp",
    behavior_column: BehaviorColumn = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a run on the whole catalogue, beside most-popular and item-kNN."""
    from hytrec.commands import evaluate_run  # noqa: PLC0415 - torch

    columns = _columns(user_column, item_column, time_column, behavior_column)
    result = evaluate_run(
        run, events, columns=columns, part=part, allow_repeats=allow_repeats, baselines=baselines, threads=threads
    )
    _show(result.as_json, result.as_text, as_json=as_json)


def _columns(user: str, item: str, time: str, behavior: str | None) -> dict[str, Any]:
    return {"user_column": user, "item_column": item, "time_column": time, "behavior_column": behavior}


def _show(values: dict[str, Any], text: str, *, as_json: bool) -> None:
    print(json.dumps(values, indent=2) if as_json else text)  # noqa: T201


def main() -> None:
    """Run the command line."""
    run_program(app, extras=dict.fromkeys(TRAIN_PACKAGES, "train"))
