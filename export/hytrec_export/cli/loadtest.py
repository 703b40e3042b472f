"""`hytrec-export loadtest`: throughput and latency of a live server."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from hytrec.command_options import expand_options
from hytrec_export.loadtest.options import NOT_CLEAN, WORSE, LoadTestOptions

AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@expand_options
def loadtest(*, options: LoadTestOptions, as_json: AsJson = False) -> None:
    """Measure a live server with perf_analyzer, on traffic made from a real event log.

    Exit code 3: the report has problems (a run failed or is unstable, a rate was not reached).
    4: worse than --compare.
    A server with TLS or a token: HYTREC_TLS_CA, HYTREC_TLS_CERT, HYTREC_TLS_KEY and HYTREC_TOKEN_FILE name the files.
    """
    from hytrec.progress_bar import progress_bar  # noqa: PLC0415 - --help is not to wait for rich
    from hytrec_export.loadtest.run import run_and_report  # noqa: PLC0415 - numpy

    report = run_and_report(options, command=shlex.join(["hytrec-export", *sys.argv[1:]]), progress=progress_bar)
    show_and_exit(report, options.output, as_json=as_json)


def show_and_exit(report: Mapping[str, Any], output: Path, *, as_json: bool) -> NoReturn:
    """Print the report, or its summary, and end with its exit code.

    Raises:
        typer.Exit: always.
    """
    from hytrec_export.loadtest.tables import summary  # noqa: PLC0415 - numpy

    print(json.dumps(report, indent=2) if as_json else summary(report, output))  # noqa: T201
    if report.get("comparison", {}).get("regressions"):
        raise typer.Exit(WORSE)
    raise typer.Exit(NOT_CLEAN if report["problems"] else 0)
