"""The order of a load test: look at the server, make the traffic, feed the users, run every point, write the report."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hytrec.signature import RANK
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.figures import Window, mark_saturation, point_figures, verdict
from hytrec_export.loadtest.input_data import Requests
from hytrec_export.loadtest.lengths import run_lengths
from hytrec_export.loadtest.measurement import Analyzer, ServerWindows
from hytrec_export.loadtest.options import Load, LoadTestOptions, Scenario
from hytrec_export.loadtest.perf_analyzer import find_perf_analyzer
from hytrec_export.loadtest.plan import Plan
from hytrec_export.loadtest.preparation import Prepared, prepare
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.progress import Progress, silent


@dataclass(kw_only=True, eq=False)
class Result:
    """What a load test found.

    Args:
        test: how it was made: scenario, server, log, model.
        points: of the sweep.
        peers: the section of the report on contenders by length of history; None where none was asked for.
        commands: of every run of perf_analyzer, as a shell takes them.
        problems: what keeps the result from being clean, one line each.
    """

    test: dict[str, Any]
    points: list[dict[str, Any]]
    peers: dict[str, Any] | None = None
    commands: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run_load_test(options: LoadTestOptions, *, inputs: Path | None = None, progress: Progress = silent) -> Result:
    """Run every point of the sweep, or every contender at every length of history.

    Args:
        inputs: folder to keep perf_analyzer's input files in; None keeps none.

    Raises:
        LoadTestError: perf_analyzer is missing, no server answers, or it is not the one that the options speak of.
        DataError: the event log cannot be used.
        RepositoryError: a repository given cannot be read.
        MissingPackageError: a package of the extra loadtest is missing.
    """
    analyzer = Analyzer(program=find_perf_analyzer(options.perf_analyzer), timeout_s=options.timeout_s, inputs=inputs)
    with LiveServer(options.endpoint) as server:
        prepared = prepare(server, options)
        run = _run_lengths if options.history_lengths else _run_sweep
        result = run(options, server, prepared, analyzer, progress)
    result.test = {**prepared.to_dict(options), **result.test}
    result.problems += prepared.problems()
    result.commands = analyzer.commands
    return result


def _run_lengths(
    options: LoadTestOptions, server: LiveServer, prepared: Prepared, analyzer: Analyzer, progress: Progress
) -> Result:
    test, peers, problems = run_lengths(options, server, prepared, analyzer, progress=progress)
    return Result(test=test, points=[], peers=peers, problems=problems)


def _run_sweep(
    options: LoadTestOptions, server: LiveServer, prepared: Prepared, analyzer: Analyzer, progress: Progress
) -> Result:
    plan = Plan(options, prepared.log, prefix=prepared.prefix, limits=prepared.limits)
    with ExitStack() as stack:
        stack.callback(prefill.forget, server, plan.visitors, progress=progress)  # whatever happens from here on
        requests = _with_histories(server, plan, prepared, options, progress=progress)
        windows = ServerWindows(server, requests, analyzer)
        points = _points(windows, plan, options, progress)
    test = {
        "visitors": len(plan.visitors),
        "requests_of_window": options.requests_of_window(),
        "candidates": prepared.candidates if RANK in options.scenario.endpoints() else None,
        "server_seen": windows.process is not None,
    }
    return Result(test=test, points=points, problems=verdict(points, options.scenario))


def _with_histories(
    server: LiveServer, plan: Plan, prepared: Prepared, options: LoadTestOptions, *, progress: Progress
) -> Requests:
    """The server with every visitor's history, and what the requests are made from."""
    requests = Requests(log=prepared.log)
    if options.scenario is Scenario.COLD:
        return requests
    prefill.feed(server, requests, plan.visitors, chunk=prepared.chunk, progress=progress)
    if RANK in options.scenario.endpoints():
        requests.candidates = prefill.pools(
            server,
            prepared.log,
            plan.visitors,
            count=prepared.candidates,
            top_k=server.retrieved(),
            progress=progress,
        )
    return requests


def _points(windows: ServerWindows, plan: Plan, options: LoadTestOptions, progress: Progress) -> list[dict[str, Any]]:
    """Figures of every load, lightest first."""
    found: dict[Load, list[Window]] = {}
    with progress(f"running {options.scenario.value}", len(plan.windows)) as advance:
        for load, jobs in plan.windows:
            found.setdefault(load, []).append(windows.window(jobs))
            advance(1)
    in_order = sorted(found.items(), key=lambda pair: pair[0].value)
    points = [point_figures(load, own, max_spread=options.max_spread) for load, own in in_order]
    mark_saturation(points)
    return points
