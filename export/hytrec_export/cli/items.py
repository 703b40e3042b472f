"""`hytrec-export items`: items that come and go while a repository is served."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hytrec.program import AsJson
from hytrec_export.cli.state import show_values
from hytrec_export.errors import OptionError

if TYPE_CHECKING:  # numpy: --help is not to wait for it
    from hytrec_export.catalog.new_rows import NewItem

items_app = typer.Typer(help="Change the catalog of a built repository, while it is served too.", no_args_is_help=True)

Repository = Annotated[Path, typer.Argument(help="Folder of a built model repository.", show_default=False)]


@items_app.command()
def add(
    repository: Repository,
    *,
    key: Annotated[str | None, typer.Option(help="Key of the new item.", show_default=False)] = None,
    like: Annotated[str, typer.Option(help="Items that it is like, as A,B,C; none for one that was removed.")] = "",
    file: Annotated[
        Path | None, typer.Option(help="Several at once: CSV, or JSON lines (.jsonl), with key and like.")
    ] = None,
    item_table: Annotated[
        Path | None, typer.Option(help="Several at once: a table like the --item-table of the training.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add items, like others or by their features (--item-table), or bring removed ones back."""
    from hytrec_export.catalog.editing import add_items  # noqa: PLC0415
    from hytrec_export.catalog.item_file import read_item_features, read_new_items  # noqa: PLC0415
    from hytrec_export.catalog.new_rows import NewItem  # noqa: PLC0415

    if sum(given is not None for given in (key, file, item_table)) != 1:
        raise OptionError("give one item, --key KEY --like A,B, or several by --file or --item-table")
    items: list[NewItem]
    if item_table is not None:
        items, known = read_item_features(item_table, repository)
        if known:
            print(f"items of {item_table} that are in the catalog already: {known}", file=sys.stderr)  # noqa: T201
    elif file is not None:
        items = read_new_items(file)
    else:
        items = [NewItem(key=key or "", like=tuple(part for part in like.split(",") if part))]
    show_values(asdict(add_items(repository, items)), as_json=as_json)


@items_app.command()
def remove(
    repository: Repository,
    *,
    key: Annotated[list[str], typer.Option(help="Key of an item; repeat for several.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Have items recommended no more; histories that hold them are read as before, and they can be ranked still."""
    from hytrec_export.catalog.editing import remove_items  # noqa: PLC0415

    show_values(asdict(remove_items(repository, key)), as_json=as_json)


@items_app.command("list")
def list_(repository: Repository, *, as_json: AsJson = False) -> None:
    """Show how many items there are and rows are free, and which were added and removed since the build."""
    from hytrec_export.catalog.editing import list_items  # noqa: PLC0415

    summary, changed = list_items(repository)
    if as_json:
        print(json.dumps(asdict(summary) | {"changed": dict(changed)}, indent=2))  # noqa: T201
        return
    show_values(asdict(summary), as_json=False)
    for key, what in changed:
        print(f"{key}  {what}")  # noqa: T201
