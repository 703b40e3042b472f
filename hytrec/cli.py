"""`hytrec`: train a model on an event log, and evaluate it.

Nothing heavy is imported here: `--help` needs no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hytrec.command_options import expand_options
from hytrec.config import ModelConfig
from hytrec.data.logs.options import LogOptions
from hytrec.data.split import Part, Repeats, Split
from hytrec.errors import ConfigError, RunError
from hytrec.event_log import read_events, with_items
from hytrec.option_file import OPTION_FILE, read_options
from hytrec.program import AsJson, program, run_program
from hytrec.training.options import Precision, TrainingOptions, check_device_name

app = program(
    "Train and evaluate HyTRec recommenders. "
    "Results go to stdout, progress to stderr; a known error is one line and exit code 1."
)

TRAIN_PACKAGES = ("torch", "duckdb", "safetensors", "scipy")
"""Packages of the extra that the commands import."""

Threads = Annotated[int, typer.Option(help="torch threads; 0 for its default.")]
EVENTS_HELP = "Event log: Parquet, CSV or other separated text, JSON lines, RecBole .inter; files, folders, patterns."
RepeatsOption = Annotated[
    Repeats | None,
    typer.Option(
        "--repeats", help="Whether items that a user had before are recommended; by default as the log shows."
    ),
]
TargetBehaviorOption = Annotated[
    list[str] | None,
    typer.Option("--target-behavior", help="Behavior whose events are predicted, as purchase; may be repeated."),
]


def _take_config(context: typer.Context, file: Path | None) -> Path | None:
    if file is not None:
        _make_defaults(context, "--config", _options_in(file))
    return file


def _take_run(context: typer.Context, run: Path | None) -> Path | None:
    if run is not None:
        file = run / OPTION_FILE
        if not file.exists():
            raise RunError(
                f"{file} is missing: no training was begun there; begin one: hytrec train EVENTS --output {run}"
            )
        _make_defaults(context, "--resume", _options_in(file) | {"output": run})
    return run


def _options_in(file: Path) -> dict[str, Any]:
    return read_options(file, train, left_out=("config", "resume", "as_json"))


def _make_defaults(context: typer.Context, option: str, values: dict[str, Any]) -> None:
    """Options on the command line have precedence over these.

    Raises:
        ConfigError: another file has given some already.
    """
    if context.default_map:
        raise ConfigError(f"{option} is given beside another file of options; give either --config or --resume")
    context.default_map = values


@app.command()
@expand_options
def train(
    events: Annotated[list[Path], typer.Argument(help=EVENTS_HELP, show_default=False)],
    *,
    output: Annotated[Path, typer.Option(help="Run folder to write.", show_default=False)],
    config: Annotated[  # noqa: ARG001 - its callback has taken the options
        Path | None,
        typer.Option(
            help="TOML file with options, as the run.toml of a run.",
            envvar="HYTREC_TRAIN_CONFIG",
            is_eager=True,
            callback=_take_config,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Run folder of a training to go on with.", is_eager=True, callback=_take_run),
    ] = None,
    log_options: LogOptions,
    repeats: RepeatsOption = None,
    split: Annotated[
        Split, typer.Option(help="What is held out: every user's last two events, or all events after a time.")
    ] = Split.LAST,
    target_behavior: TargetBehaviorOption = None,
    item_table: Annotated[
        Path | None,
        typer.Option(help="Table of the items: their keys, and columns that say what they have in common."),
    ] = None,
    sizes: Annotated[dict[str, Any], ModelConfig],
    options: TrainingOptions,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Train a model and write a run folder."""
    _refuse_another_output(output, resume)
    ModelConfig(items=1, **sizes)  # before the log is read: a wrong size fails at once
    if options.device.startswith("cuda") or options.precision is Precision.BFLOAT16:
        from hytrec.training.devices import chosen_device, chosen_precision  # noqa: PLC0415 - torch

        chosen_precision(options, chosen_device(options.device))  # what is not there fails before the log is read
    log = read_events(events, log_options)
    if item_table is not None:
        log = with_items(log, item_table)
    from hytrec.commands import train_run  # noqa: PLC0415 - torch

    result = train_run(
        log,
        output,
        repeats=repeats,
        split=split,
        target_behaviors=target_behavior or [],
        sizes=sizes,
        options=options,
        resume=resume is not None,
        threads=threads,
    )
    _show(result.as_json, result.as_text, as_json=as_json)


@app.command()
@expand_options
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder of `hytrec train`.", show_default=False)],
    *,
    events: Annotated[list[Path] | None, typer.Option(help="Event log; by default the one trained on.")] = None,
    part: Annotated[Part, typer.Option(help="Which event of each history is predicted.")] = Part.TEST,
    baselines: Annotated[bool, typer.Option(help="Evaluate most-popular, item-kNN and proximity kNN, too.")] = True,
    log_options: LogOptions,
    repeats: RepeatsOption = None,
    device: Annotated[str, typer.Option(help="Where to evaluate: auto, cpu, cuda or cuda:1.")] = "auto",
    split: Annotated[Split | None, typer.Option(help="What was held out; by default as in the training.")] = None,
    target_behavior: TargetBehaviorOption = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run against the whole catalogue, beside most-popular, item-kNN and proximity kNN."""
    check_device_name(device)
    from hytrec.commands import evaluate_run  # noqa: PLC0415 - torch

    result = evaluate_run(
        run,
        events or [],
        log_options=log_options,
        part=part,
        repeats=repeats,
        split=split,
        target_behaviors=target_behavior,
        baselines=baselines,
        device=device,
        threads=threads,
    )
    _show(result.as_json, result.as_text, as_json=as_json)


def _refuse_another_output(output: Path, resume: Path | None) -> None:
    if resume is not None and output.absolute() != resume.absolute():
        raise ConfigError(f"--resume {resume} writes to that folder; leave out --output {output}")


def _show(values: dict[str, Any], text: str, *, as_json: bool) -> None:
    print(json.dumps(values, indent=2) if as_json else text)  # noqa: T201


def main() -> None:
    """Run the command line."""
    run_program(app, extras=dict.fromkeys(TRAIN_PACKAGES, "train"))
