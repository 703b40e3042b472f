"""The order of a load test: check the server, make the traffic, prefill the users, run every point."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hytrec.signature import RANK
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.comparison import compared_figures
from hytrec_export.loadtest.figures import Window, mark_saturation, point_figures, verdict
from hytrec_export.loadtest.input_data import RequestFactory
from hytrec_export.loadtest.measurement import Analyzer, ServerWindows
from hytrec_export.loadtest.options import Load, LoadTestOptions, Scenario
from hytrec_export.loadtest.perf_analyzer import find_perf_analyzer
from hytrec_export.loadtest.plan import Plan
from hytrec_export.loadtest.preparation import Prepared, prepare
from hytrec_export.loadtest.report import Result
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.progress import Progress, silent


def run_sweep(options: LoadTestOptions, inputs: Path | None = None, progress: Progress = silent) -> Result:
    """Run every point of the sweep.

    Args:
        inputs: folder to keep perf_analyzer's input files in; None keeps none.

    Raises:
        LoadTestError: perf_analyzer is missing, no server answers, or it is not the one that the options name.
        DataError: the event log cannot be used.
        RepositoryError: the repository given cannot be read.
        MissingPackageError: a package of the extra loadtest is missing.
    """
    analyzer = Analyzer(program=find_perf_analyzer(options.perf_analyzer), timeout_s=options.timeout_s, inputs=inputs)
    with LiveServer(options.endpoint) as server, ExitStack() as stack:
        prepared = prepare(server, options)
        plan = Plan(options, prepared.log, prefix=prepared.prefix, limits=prepared.limits)
        stack.callback(prefill.forget, server, plan.users, progress=progress)  # whatever happens from here on
        factory = _with_histories(server, plan, prepared, options, progress=progress)
        windows = ServerWindows(server, factory, analyzer)
        points = _points(windows, plan, options, progress)
    requests = options.requests_per_window()
    test = {
        **prepared.to_dict(options),
        "users": len(plan.users),
        "requests_per_window": requests,
        "candidates": prepared.candidates if RANK in options.scenario.endpoints() else None,
        "server_seen": windows.process is not None,
        "amount": f"{len(plan.users)} users, {options.windows} windows of {requests} requests at every load",
    }
    return Result(
        test=test,
        points=points,
        compared=compared_figures(points),
        commands=analyzer.commands,
        problems=verdict(points, options.scenario) + prepared.problems(),
    )


def _with_histories(
    server: LiveServer, plan: Plan, prepared: Prepared, options: LoadTestOptions, *, progress: Progress
) -> RequestFactory:
    """Prefill every user's history; what the requests are made from."""
    factory = RequestFactory(log=prepared.log)
    if options.scenario is Scenario.COLD:
        return factory
    prefill.append_histories(server, factory, plan.users, chunk=prepared.chunk, progress=progress)
    if RANK in options.scenario.endpoints():
        factory.candidates = prefill.retrieve_candidates(
            server,
            prepared.log,
            plan.users,
            count=prepared.candidates,
            top_k=server.max_top_k(),
            progress=progress,
        )
    return factory


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
