"""`hytrec-export recommend-all`: lists of items for all users of a store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hytrec.command_options import expand_options
from hytrec.program import AsJson
from hytrec_export.bulk.list_options import ListOptions
from hytrec_export.cli.state import STATE_FOLDER, StateUrl, interruptible, show_values
from hytrec_export.state.url import StoreUrl


@expand_options
def recommend_all(
    *,
    repository: Annotated[Path, typer.Option(help="Repository of the model.", show_default=False)],
    state: StateUrl = STATE_FOLDER,
    output: Annotated[Path, typer.Option(help="Parquet file to write.")] = Path("lists.parquet"),
    options: ListOptions,
    as_json: AsJson = False,
) -> None:
    """Write recommendations for all users of a store to a Parquet file that its owner alone can read."""
    from hytrec.progress_bar import progress_bar  # noqa: PLC0415 - rich
    from hytrec_export.bulk.recommend_all import recommend_all as recommend  # noqa: PLC0415 - numpy

    with interruptible("interrupted; the previous output is unchanged"):
        made = recommend(repository, StoreUrl.parse(state), output, options=options, progress=progress_bar)
    show_values(asdict(made), as_json=as_json)
