"""Compare servers that run, by history length: `python -m hytrec_benchmarks.peers --help`.

`python -m hytrec_benchmarks.compare_peers` builds and starts them all first.
"""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Any

import typer

from hytrec.command_options import expand_options
from hytrec.program import run_program
from hytrec.progress_bar import progress_bar
from hytrec_benchmarks.peers.comparison import run_comparison
from hytrec_benchmarks.peers.options import CONCURRENCY, ComparisonOptions, Peer
from hytrec_export.cli import loadtest as cli
from hytrec_export.cli.app import EXTRAS
from hytrec_export.loadtest.run import run_and_report

Peers = Annotated[
    list[str] | None, typer.Option(metavar="NAME=HOST:PORT", help="A server to compare with; may be repeated.")
]


@expand_options
def compare(
    *,
    compared: Annotated[dict[str, Any], ComparisonOptions],
    concurrency: Annotated[int, typer.Option(help="In-flight requests.")] = CONCURRENCY,
    peer: Peers = None,
    as_json: cli.AsJson = False,
) -> None:
    """Compare a HyTRec server with other servers of the same endpoints, and with its graphs in this process.

    Exit code 3: the report has problems (a run failed or is unstable, scores differ). 4: worse than --compare.
    """
    peers = tuple(Peer.parse(text) for text in peer or ())
    options = ComparisonOptions(concurrency=(concurrency,), peers=peers, **compared)
    command = shlex.join(["python", "-m", "hytrec_benchmarks.peers", *sys.argv[1:]])
    report = run_and_report(options, command=command, progress=progress_bar, test=run_comparison)
    cli.show_and_exit(report, options.output, as_json=as_json)


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(compare)

if __name__ == "__main__":
    run_program(app, extras=EXTRAS)
