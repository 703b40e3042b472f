"""How the three programs end: a known error is one line and exit code 1, anything else keeps its traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from hytrec import __version__
from hytrec.errors import HytrecError
from hytrec.optional import missing_package

INTERRUPTED = 130


def _print_version(context: typer.Context, wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if wanted:
        typer.echo(f"{context.info_name} {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
]


def program_options(*, version: Version = False) -> None:
    """Options of a program before any command: the callback of its typer app."""


def run_program(app: Callable[[], object], *, extras: Mapping[str, str]) -> None:
    """Run a command line.

    Args:
        extras: by top-level package, the pip extra that brings it for this program.

    Raises:
        SystemExit: with code 1 after a known error, or where a package of `extras` is not installed; with 130 after
            Ctrl-C, which typer says nothing of.
    """
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            sys.stderr.write("error: interrupted; what stood at the output before stands there still\n")
        raise
    except HytrecError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in extras:
            raise
        message = missing_package(package, extra=extras[package])
    else:
        return
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(1)
