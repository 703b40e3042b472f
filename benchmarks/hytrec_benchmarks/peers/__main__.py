"""Compare servers that run, by history length: `python -m hytrec_benchmarks.peers --help`.

`python -m hytrec_benchmarks.compare_peers` builds and starts them all first.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hytrec.program import run_program
from hytrec_benchmarks.peers.comparison import run_comparison
from hytrec_benchmarks.peers.options import CONCURRENCY, LENGTHS, ComparisonOptions, Peer
from hytrec_export.cli import loadtest as cli
from hytrec_export.cli.app import EXTRAS
from hytrec_export.cli.progress_bar import progress_bar
from hytrec_export.loadtest.options import LogColumns, Scenario
from hytrec_export.loadtest.run import run_and_report

DEFAULT_LENGTHS = ",".join(map(str, LENGTHS))

Lengths = Annotated[str, typer.Option("--history-lengths", help="Events of a user before its requests.")]
Peers = Annotated[
    list[str] | None, typer.Option(metavar="NAME=HOST:PORT", help="A server to compare with; may be repeated.")
]
InProcess = Annotated[
    Path | None, typer.Option(help="Repository of the same model whose graphs run in this process, as the upper bound.")
]


def compare(
    *,
    endpoint: cli.Endpoint = ComparisonOptions.endpoint,
    repository: cli.Repository = ComparisonOptions.repository,
    events: cli.Events = ComparisonOptions.events,
    user_column: cli.UserColumn = LogColumns.user,
    item_column: cli.ItemColumn = LogColumns.item,
    time_column: cli.TimeColumn = LogColumns.time,
    behavior_column: cli.BehaviorColumn = LogColumns.behavior,
    scenario: Annotated[Scenario, typer.Option(help="append, rank or recommend.")] = ComparisonOptions.scenario,
    concurrency: Annotated[int, typer.Option(help="In-flight requests.")] = CONCURRENCY,
    history_lengths: Lengths = DEFAULT_LENGTHS,
    peer: Peers = None,
    in_process: InProcess = ComparisonOptions.in_process,
    windows: cli.Windows = ComparisonOptions.windows,
    window_seconds: Annotated[float, typer.Option(help="Target seconds of a window.")] = (
        ComparisonOptions.window_seconds
    ),
    candidates: cli.Candidates = ComparisonOptions.candidates,
    output: cli.Output = ComparisonOptions.output,
    compare: cli.Compare = ComparisonOptions.compare,
    noise: cli.Noise = ComparisonOptions.noise,
    max_spread: cli.MaxSpread = ComparisonOptions.max_spread,
    timeout_s: cli.TimeoutS = ComparisonOptions.timeout_s,
    perf_analyzer: cli.Program = ComparisonOptions.perf_analyzer,
    keep_inputs: cli.KeepInputs = False,
    seed: cli.Seed = ComparisonOptions.seed,
    as_json: cli.AsJson = False,
) -> None:
    """Compare a HyTRec server with other servers of the same endpoints, and with its graphs in this process.

    Exit code 3: the report has problems (a run failed or is unstable, scores differ). 4: worse than --compare.
    """
    options = ComparisonOptions(
        endpoint=endpoint,
        repository=repository,
        events=events,
        columns=LogColumns(user=user_column, item=item_column, time=time_column, behavior=behavior_column),
        scenario=scenario,
        concurrency=(concurrency,),
        history_lengths=cli.numbers("history lengths", history_lengths, int),
        peers=tuple(Peer.parse(text) for text in peer or ()),
        in_process=in_process,
        windows=windows,
        window_seconds=window_seconds,
        candidates=candidates,
        output=output,
        compare=compare,
        noise=noise,
        max_spread=max_spread,
        timeout_s=timeout_s,
        perf_analyzer=perf_analyzer,
        keep_inputs=keep_inputs,
        seed=seed,
    )
    command = shlex.join(["python", "-m", "hytrec_benchmarks.peers", *sys.argv[1:]])
    report = run_and_report(options, command=command, progress=progress_bar, test=run_comparison)
    cli.show_and_exit(report, options.output, as_json=as_json)


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(compare)

if __name__ == "__main__":
    run_program(app, extras=EXTRAS)
