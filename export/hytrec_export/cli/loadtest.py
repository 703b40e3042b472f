"""`hytrec-export loadtest`: throughput and latency of a live server."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from hytrec_export.errors import OptionError
from hytrec_export.loadtest.options import NOT_CLEAN, WORSE, LoadTestOptions, LogColumns, Scenario

Number = TypeVar("Number", int, float)

Endpoint = Annotated[str, typer.Option(help="gRPC of the live server, host:port.")]
Repository = Annotated[
    Path | None, typer.Option(help="The server's model repository: gives its limits, and must hold its model.")
]
Events = Annotated[Path, typer.Option(help="Event log that traffic is made from: Parquet, CSV or RecBole .inter.")]
UserColumn = Annotated[str, typer.Option(help="Column of the user.")]
ItemColumn = Annotated[str, typer.Option(help="Column of the item.")]
TimeColumn = Annotated[str, typer.Option(help="Column of the unix time in seconds.")]
BehaviorColumn = Annotated[str | None, typer.Option(help='Column of the behavior; "behavior" if there is one.')]
Concurrency = Annotated[
    str, typer.Option(help="In-flight requests, as 1,2,4,8.", show_default="1,2,4,8; 4,8 for mixed")
]
Count = Annotated[int | None, typer.Option(help="Requests per window.", show_default="1000; 60 for cold")]
Users = Annotated[int, typer.Option(help="Maximum number of the log's users.")]
Compare = Annotated[Path | None, typer.Option(help="Folder of an earlier report; exit code 4 if this one is worse.")]
MaxSpread = Annotated[float, typer.Option(help="Relative difference of windows above which a load is unstable.")]
TimeoutS = Annotated[float, typer.Option("--timeout", help="Maximum seconds of one run of perf_analyzer.")]
Program = Annotated[
    Path | None, typer.Option(help="The program; else from PATH, else where make perf-analyzer puts it.")
]
Windows = Annotated[int, typer.Option(help="Measurement windows per load, one run of perf_analyzer each.")]
Candidates = Annotated[int, typer.Option(help="Candidates of a rank request.")]
Output = Annotated[Path, typer.Option(help="Folder of the report; an old one is replaced.")]
Noise = Annotated[float, typer.Option(help="Share by which a figure may be worse.")]
KeepInputs = Annotated[bool, typer.Option("--keep-inputs", help="Keep perf_analyzer's input files.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def loadtest(
    *,
    endpoint: Endpoint = LoadTestOptions.endpoint,
    repository: Repository = LoadTestOptions.repository,
    events: Events = LoadTestOptions.events,
    user_column: UserColumn = LogColumns.user,
    item_column: ItemColumn = LogColumns.item,
    time_column: TimeColumn = LogColumns.time,
    behavior_column: BehaviorColumn = LogColumns.behavior,
    scenario: Annotated[Scenario, typer.Option(help="Which endpoints are requested.")] = LoadTestOptions.scenario,
    concurrency: Concurrency = "",
    request_rate: Annotated[str, typer.Option(help="Requests/s instead of a concurrency, as 20,40.")] = "",
    requests: Count = LoadTestOptions.requests,
    windows: Windows = LoadTestOptions.windows,
    users: Users = LoadTestOptions.users,
    candidates: Candidates = LoadTestOptions.candidates,
    output: Output = LoadTestOptions.output,
    compare: Compare = LoadTestOptions.compare,
    noise: Noise = LoadTestOptions.noise,
    max_spread: MaxSpread = LoadTestOptions.max_spread,
    timeout_s: TimeoutS = LoadTestOptions.timeout_s,
    perf_analyzer: Program = LoadTestOptions.perf_analyzer,
    keep_inputs: KeepInputs = False,
    seed: Seed = LoadTestOptions.seed,
    as_json: AsJson = False,
) -> None:
    """Measure a live server with perf_analyzer, on traffic made from a real event log.

    Exit code 3: the report has problems (a run failed or is unstable, a rate was not reached).
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


def numbers(name: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """Numbers of a list as 1,2,4.

    Raises:
        OptionError: it is no such list.
    """
    try:
        return tuple(kind(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise OptionError(f"{name} is {text!r}; give numbers with commas between them, as 1,2,4") from None
