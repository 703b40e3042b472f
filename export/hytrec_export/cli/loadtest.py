"""`hytrec-export loadtest`: how many users a second a live server answers, and how fast."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from hytrec_export.errors import OptionError
from hytrec_export.loadtest.options import LoadTestOptions, LogColumns, Peer, Scenario

NOT_CLEAN = 3
"""Exit code of a test whose report has problems: a run failed, is unstable, or a rate was not reached."""
WORSE = 4
"""Exit code of a test that is worse than the one it is compared with."""

Number = TypeVar("Number", int, float)

Endpoint = Annotated[str, typer.Option(help="gRPC of the live server, host:port.")]
Repository = Annotated[
    Path | None, typer.Option(help="The server's model repository: its limits are kept, its model is checked.")
]
Events = Annotated[Path, typer.Option(help="Event log that traffic is made from: Parquet, CSV or RecBole .inter.")]
UserColumn = Annotated[str, typer.Option(help="Column of the user.")]
ItemColumn = Annotated[str, typer.Option(help="Column of the item.")]
TimeColumn = Annotated[str, typer.Option(help="Column of the unix time in seconds.")]
BehaviorColumn = Annotated[str | None, typer.Option(help='Column of the behavior; "behavior" if there is one.')]
Concurrency = Annotated[
    str, typer.Option(help="Requests under way, as 1,2,4,8.", show_default="1,2,4,8; 4,8 for mixed")
]
Count = Annotated[int | None, typer.Option(help="Requests of one window.", show_default="1000; 60 for cold")]
Users = Annotated[int, typer.Option(help="Most users of the log to take; all of them with --history-lengths.")]
Lengths = Annotated[
    str,
    typer.Option(
        "--history-lengths",
        help="Instead of a sweep: users of exactly so many events, as 100,1000,10000, at the largest concurrency.",
    ),
]
Peers = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=HOST:PORT", help="Another server, compared at every length; may be repeated."),
]
InProcess = Annotated[
    Path | None, typer.Option(help="Repository of the same model whose graphs run here without a server, as the floor.")
]
Compare = Annotated[Path | None, typer.Option(help="Folder of an earlier report; exit code 4 if this one is worse.")]
MaxSpread = Annotated[float, typer.Option(help="Share by which windows of a load may differ before it is unstable.")]
TimeoutS = Annotated[float, typer.Option("--timeout", help="Seconds that one run of perf_analyzer may take.")]
Program = Annotated[
    Path | None, typer.Option(help="The program; else from PATH, else where make perf-analyzer puts it.")
]


def loadtest(
    *,
    endpoint: Endpoint = LoadTestOptions.endpoint,
    repository: Repository = LoadTestOptions.repository,
    events: Events = LoadTestOptions.events,
    user_column: UserColumn = LogColumns.user,
    item_column: ItemColumn = LogColumns.item,
    time_column: TimeColumn = LogColumns.time,
    behavior_column: BehaviorColumn = LogColumns.behavior,
    scenario: Annotated[Scenario, typer.Option(help="What is called.")] = LoadTestOptions.scenario,
    concurrency: Concurrency = "",
    request_rate: Annotated[str, typer.Option(help="Requests sent a second instead, as 20,40.")] = "",
    requests: Count = LoadTestOptions.requests,
    windows: Annotated[int, typer.Option(help="Runs of perf_analyzer at every load.")] = LoadTestOptions.windows,
    users: Users = LoadTestOptions.users,
    candidates: Annotated[int, typer.Option(help="Candidates of a ranking.")] = LoadTestOptions.candidates,
    history_lengths: Lengths = "",
    peer: Peers = None,
    in_process: InProcess = LoadTestOptions.in_process,
    window_seconds: Annotated[float, typer.Option(help="About how long a window lasts at a length.")] = (
        LoadTestOptions.window_seconds
    ),
    output: Annotated[Path, typer.Option(help="Folder of the report; an old one is replaced.")] = (
        LoadTestOptions.output
    ),
    compare: Compare = LoadTestOptions.compare,
    noise: Annotated[float, typer.Option(help="Share by which a figure may be worse.")] = LoadTestOptions.noise,
    max_spread: MaxSpread = LoadTestOptions.max_spread,
    timeout_s: TimeoutS = LoadTestOptions.timeout_s,
    perf_analyzer: Program = LoadTestOptions.perf_analyzer,
    keep_inputs: Annotated[bool, typer.Option("--keep-inputs", help="Keep perf_analyzer's input files.")] = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = LoadTestOptions.seed,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a live server with perf_analyzer, on traffic made from a real event log.

    Exit code 3: the report has problems (a run failed or is unstable, a rate was not reached, scores differ).
    4: worse than --compare.
    """
    options = LoadTestOptions(
        endpoint=endpoint,
        repository=repository,
        events=events,
        columns=LogColumns(user=user_column, item=item_column, time=time_column, behavior=behavior_column),
        scenario=scenario,
        concurrency=numbers("concurrency", concurrency, int),
        request_rate=numbers("request rate", request_rate, float),
        requests=requests,
        windows=windows,
        users=users,
        candidates=candidates,
        history_lengths=numbers("history lengths", history_lengths, int),
        peers=tuple(Peer.parse(text) for text in peer or ()),
        in_process=in_process,
        window_seconds=window_seconds,
        output=output,
        compare=compare,
        noise=noise,
        max_spread=max_spread,
        timeout_s=timeout_s,
        perf_analyzer=perf_analyzer,
        keep_inputs=keep_inputs,
        seed=seed,
    )
    from hytrec_export.cli.progress_bar import progress_bar  # noqa: PLC0415 - --help is not to wait for rich
    from hytrec_export.loadtest.run import run_and_report  # noqa: PLC0415 - numpy
    from hytrec_export.loadtest.summary import summary  # noqa: PLC0415

    command = shlex.join(["hytrec-export", *sys.argv[1:]])
    report = run_and_report(options, command=command, progress=progress_bar)
    print(json.dumps(report, indent=2) if as_json else summary(report, options.output))  # noqa: T201
    if report.get("comparison", {}).get("regressions"):
        raise typer.Exit(WORSE)
    raise typer.Exit(NOT_CLEAN if report["problems"] else 0)


def numbers(name: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """Numbers of a list as 1,2,4.

    Raises:
        OptionError: it is no such list.
    """
    try:
        return tuple(kind(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise OptionError(f"{name} is {text!r}; give numbers with commas between them, as 1,2,4") from None
