"""`hytrec-export state`: users' states in the store of a server."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from hytrec.command_options import expand_options
from hytrec.errors import Interrupted
from hytrec.program import AsJson
from hytrec_export.bulk.engine_options import EngineOptions
from hytrec_export.state.url import StoreUrl

STATE_FOLDER = "state"
GOES_ON = "interrupted; what was written stays, and this can be run again: it goes on where it was"

state_app = typer.Typer(help="Inspect and maintain the state store of a server.", no_args_is_help=True)

StateUrl = Annotated[str, typer.Option("--state", help="Folder or URL of the state store.")]
SnapshotUrl = Annotated[
    str | None,
    typer.Option(
        "--snapshot-store", help="Folder or URL of a store for states alone; by default they lie in the state store."
    ),
]
UserId = Annotated[str, typer.Argument(help="The user's id.", show_default=False)]


@state_app.command()
def show(
    user_id: Annotated[str | None, typer.Argument(help="One user; the whole store if none.")] = None,
    *,
    state: StateUrl = STATE_FOLDER,
    users: Annotated[bool, typer.Option("--users", help="List every user.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how full a store is, or what it holds of a user."""
    from hytrec_export.state import commands  # noqa: PLC0415 - numpy

    if user_id is not None:
        show_values(_plain(asdict(commands.show_user(StoreUrl.parse(state), user_id))), as_json=as_json)
    elif users:
        for summary in commands.list_users(StoreUrl.parse(state)):
            values = _plain(asdict(summary))
            print(json.dumps(values) if as_json else "  ".join(map(str, values.values())))  # noqa: T201
    else:
        view = asdict(commands.show_store(StoreUrl.parse(state)))
        show_values(_plain(view.pop("stat") | view), as_json=as_json)


@state_app.command()
def export(
    user_id: UserId,
    output: Annotated[Path, typer.Argument(help="File to write, .npz or .json.", show_default=False)],
    *,
    state: StateUrl = STATE_FOLDER,
) -> None:
    """Write the events of a user to a file that its owner alone can read."""
    from hytrec_export.state import commands  # noqa: PLC0415 - numpy

    print(commands.export_user(StoreUrl.parse(state), user_id, output))  # noqa: T201


@state_app.command()
def delete(user_id: UserId, *, state: StateUrl = STATE_FOLDER) -> None:
    """Forget a user."""
    from hytrec_export.state import commands  # noqa: PLC0415 - numpy

    commands.delete_user(StoreUrl.parse(state), user_id)
    print(f"forgot {user_id}")  # noqa: T201


@state_app.command()
def compact(*, state: StateUrl = STATE_FOLDER, as_json: AsJson = False) -> None:
    """Remove expired and damaged records and give free space back; the server must be stopped."""
    from hytrec_export.state import commands  # noqa: PLC0415 - numpy

    show_values(_plain(asdict(commands.compact_store(StoreUrl.parse(state)))), as_json=as_json)


@state_app.command()
def backup(
    destination: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    *,
    state: StateUrl = STATE_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Copy all histories into a new folder, while the server runs."""
    from hytrec.progress_bar import progress_bar  # noqa: PLC0415 - rich
    from hytrec_export.state.backup import backup_store  # noqa: PLC0415 - numpy

    made = backup_store(StoreUrl.parse(state), destination, progress=progress_bar)
    show_values(asdict(made), as_json=as_json)


@state_app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of a backup.", show_default=False)],
    *,
    state: StateUrl = STATE_FOLDER,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of a store that is there.")] = False,
    forgotten: Annotated[
        list[Path] | None, typer.Option(help="forgotten.log of a store that was lost; may be given again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup in the store's place, without those who were forgotten since; the server must be stopped."""
    from hytrec.progress_bar import progress_bar  # noqa: PLC0415 - rich
    from hytrec_export.state.backup import restore_store  # noqa: PLC0415 - numpy

    made = restore_store(
        folder, StoreUrl.parse(state), replace=replace, forgotten=forgotten or (), progress=progress_bar
    )
    show_values(asdict(made), as_json=as_json)


@state_app.command()
@expand_options
def rebuild(
    *,
    repository: Annotated[Path, typer.Option(help="Repository of the new model.", show_default=False)],
    state: StateUrl = STATE_FOLDER,
    missing_ok: Annotated[
        bool, typer.Option("--missing-ok", help="A store that was never made has no users: do nothing, and succeed.")
    ] = False,
    engine: EngineOptions,
    as_json: AsJson = False,
) -> None:
    """Make a new model's states of all users beforehand, while the old model serves; run again, it goes on."""
    from hytrec.progress_bar import progress_bar  # noqa: PLC0415 - rich
    from hytrec_export.bulk.rebuild import rebuild as rebuild_states  # noqa: PLC0415 - numpy

    with interruptible(GOES_ON):
        url = StoreUrl.parse(state)
        made = rebuild_states(repository, url, missing_ok=missing_ok, engine=engine, progress=progress_bar)
    show_values(asdict(made), as_json=as_json)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values that JSON knows; times as text."""
    return {name: _plain_value(name, value) for name, value in values.items()}


def _plain_value(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if name == "status":
        return value.label
    if name == "written_at":
        return datetime.fromtimestamp(value, UTC).isoformat()
    return value


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Work that Ctrl-C and SIGTERM end with a message, when its temporary files, which hold users' events, are gone."""
    signals = [signal.SIGINT]

    def stop(number: int, _frame: object) -> NoReturn:
        signals.append(signal.Signals(number))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message, signals[-1]) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def show_values(values: dict[str, Any], *, as_json: bool) -> None:
    """Print a result: JSON, or a line for each value."""
    if as_json:
        print(json.dumps(values, indent=2))  # noqa: T201
        return
    width = max(16, *(len(name) + 2 for name in values))
    for name, value in values.items():
        print(f"{name.replace('_', ' '):<{width}}{'none' if value is None else value}")  # noqa: T201
