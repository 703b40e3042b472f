"""`hytrec-export backfill`: users' histories from event logs into a store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hytrec.command_options import expand_options
from hytrec.data.logs.options import LogOptions
from hytrec.program import AsJson
from hytrec_export.bulk.engine_options import EngineOptions
from hytrec_export.cli.state import GOES_ON, STATE_FOLDER, StateUrl, interruptible, show_values
from hytrec_export.state.url import StoreUrl


@expand_options
def backfill(
    events: Annotated[
        list[str],
        typer.Argument(
            help="Event log: files, folders, patterns, or addresses as s3://BUCKET/FOLDER; several are one log.",
            show_default=False,
        ),
    ],
    *,
    repository: Annotated[Path, typer.Option(help="Repository of the model.", show_default=False)],
    state: StateUrl = STATE_FOLDER,
    log_options: LogOptions,
    engine: EngineOptions,
    as_json: AsJson = False,
) -> None:
    """Bring the users of event logs into a store, served or not, with their states; run again, it goes on."""
    from hytrec.progress_bar import progress_bar  # noqa: PLC0415 - rich
    from hytrec_export.bulk.backfill import backfill as fill  # noqa: PLC0415 - numpy

    url = StoreUrl.parse(state)
    with interruptible(GOES_ON):
        made = fill(
            events,
            repository,
            url,
            options=log_options,
            engine=engine,
            progress=progress_bar,
            tell=lambda line: typer.echo(line, err=True),
        )
    show_values(asdict(made), as_json=as_json)
