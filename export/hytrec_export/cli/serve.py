"""`hytrec-export serve`: Triton Inference Server on a repository, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hytrec.command_options import expand_options
from hytrec_export.cli.state import STATE_FOLDER, SnapshotUrl, StateUrl
from hytrec_export.item_lists import ItemLists
from hytrec_export.options import BuildOptions
from hytrec_export.server.options import ServerOptions
from hytrec_export.state.options import FAR_SNAPSHOT_EVERY, Durability, StoreOptions, default_snapshot_every
from hytrec_export.state.url import StoreUrl


@expand_options
def serve(
    repository: Annotated[Path, typer.Argument(help="Folder of a built model repository.")] = BuildOptions.output,
    *,
    state: StateUrl = STATE_FOLDER,
    durability: Annotated[Durability, typer.Option(help="What an acknowledged write survives.")] = (
        StoreOptions.durability
    ),
    state_max_bytes: Annotated[int, typer.Option(help="Maximum bytes of users' histories.")] = StoreOptions.max_bytes,
    state_ttl_s: Annotated[
        int | None, typer.Option("--state-ttl", help="Delete users without a write for this many seconds.")
    ] = StoreOptions.ttl_s,
    snapshot_store: SnapshotUrl = None,
    snapshot_every: Annotated[
        int | None,
        typer.Option(
            help=f"Events after which a user's state is kept again; {StoreOptions.snapshot_every}, "
            f"and {FAR_SNAPSHOT_EVERY} in Redis."
        ),
    ] = None,
    snapshot_max_bytes: Annotated[
        int, typer.Option(help="Maximum bytes of kept states; the least recently used ones go.")
    ] = StoreOptions.snapshot_max_bytes,
    history_max_events: Annotated[int, typer.Option(help="Events kept of a user; older ones go.")] = (
        StoreOptions.history_max_events
    ),
    eligible: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE: item keys, one a line, that a recommendation may ask for by that name; repeatable."
        ),
    ] = None,
    fallback: Annotated[
        Path | None, typer.Option(help="File of item keys, best first, that users without events are recommended.")
    ] = None,
    server: Annotated[dict[str, Any], ServerOptions],
) -> None:
    """Run Triton Inference Server on a repository until Ctrl-C."""
    url = StoreUrl.parse(state)
    snapshot_url = None if snapshot_store is None else StoreUrl.parse(snapshot_store)
    store = StoreOptions(
        url=url,
        durability=durability,
        max_bytes=state_max_bytes,
        ttl_s=state_ttl_s,
        snapshot_every=default_snapshot_every(snapshot_url or url) if snapshot_every is None else snapshot_every,
        snapshot_url=snapshot_url,
        snapshot_max_bytes=snapshot_max_bytes,
        history_max_events=history_max_events,
    )
    lists = ItemLists.parse(eligible or [], fallback)
    from hytrec_export.server import run_until_stopped  # noqa: PLC0415 - after the options were found good
    from hytrec_export.state.opening import check_served  # noqa: PLC0415 - numpy, and every kind

    check_served(store.url)
    if snapshot_url is not None:
        check_served(snapshot_url)
    run_until_stopped(
        ServerOptions(repository=repository, environment=store.to_environment() | lists.to_environment(), **server)
    )
