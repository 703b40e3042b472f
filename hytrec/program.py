"""What the three programs share: `--version`, and exits: a known error is one line and code 1, a bug a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from hytrec import __version__
from hytrec.errors import HytrecError
from hytrec.optional import missing_package

INTERRUPTED = 130
_PROJECT = Path(__file__).resolve().parents[1]
_REVISION_TIMEOUT_S = 10


def project_revision(project: Path = _PROJECT) -> str | None:
    """Short git revision of this project, with "+changes" where files differ from it; None outside its checkout."""
    if not (project / ".git").exists():  # git would take the checkout around an installation
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", "-C", project, "describe", "--always", "--exclude=*", "--dirty=+changes"],  # noqa: S607
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=_REVISION_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _print_version(context: typer.Context, wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if wanted:
        revision = project_revision()
        typer.echo(f"{context.info_name} {__version__}" + (f" ({revision})" if revision else ""))
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
]


def program_options(*, version: Version = False) -> None:
    """Options of a program before any command: the callback of its typer app."""


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""Option of every command with a result."""


def program(help_text: str) -> typer.Typer:
    """A command line without commands yet, with the options of every program."""
    app = typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(program_options)
    return app


def run_program(app: Callable[[], object], *, extras: Mapping[str, str]) -> None:
    """Run a command line.

    Args:
        extras: by top-level package, the pip extra that brings it for this program.

    Raises:
        SystemExit: with the code of a known error, 1 of most; with 1 where a package of `extras` is not installed; with
            130 after Ctrl-C.
    """
    try:
        app()
    except KeyboardInterrupt:
        _fail("interrupted; the previous output is unchanged", code=INTERRUPTED)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer's, which prints nothing
            _fail("interrupted; the previous output is unchanged", code=INTERRUPTED)
        raise
    except HytrecError as error:
        _fail(str(error), code=error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in extras:
            raise
        _fail(missing_package(package, extra=extras[package]), code=1)


def _fail(message: str, *, code: int) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(code)
