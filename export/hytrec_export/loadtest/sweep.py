"""The order of a load test: look at the server, make the traffic, feed the users, run every point, write the report."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hytrec.signature import ENSEMBLES, RANK
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.analyzer import Running, command_line, find_perf_analyzer
from hytrec_export.loadtest.contract import key_types
from hytrec_export.loadtest.event_log import EventLog, read_event_log
from hytrec_export.loadtest.figures import Window, mark_saturation, point_figures, verdict
from hytrec_export.loadtest.input_data import Requests, write_input_data
from hytrec_export.loadtest.options import Load, LoadTestOptions, Scenario
from hytrec_export.loadtest.plan import Job, Plan
from hytrec_export.loadtest.profile import Profile, overlap, read_profile
from hytrec_export.loadtest.sampling import Sampler, find_server
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.loadtest.statistics import difference
from hytrec_export.progress import Progress, silent
from hytrec_export.serving import Limits, ServingSettings

FEW_KNOWN = 0.5
"""A model that knows a smaller share of the log's frequent items was trained on another log."""


@dataclass(kw_only=True, eq=False)
class Result:
    """What a load test found.

    Args:
        test: how it was made: scenario, server, log, model.
        commands: of every run of perf_analyzer, as a shell takes them.
        problems: what keeps the result from being clean, one line each.
    """

    test: dict[str, Any]
    points: list[dict[str, Any]]
    commands: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run_load_test(options: LoadTestOptions, *, inputs: Path | None = None, progress: Progress = silent) -> Result:
    """Run every point of the sweep.

    Args:
        inputs: folder to keep perf_analyzer's input files in; None keeps none.

    Raises:
        LoadTestError: perf_analyzer is missing, no server answers, or it is not the one that the options speak of.
        DataError: the event log cannot be used.
        RepositoryError: the repository given cannot be read.
        MissingPackageError: a package of the extra loadtest is missing.
    """
    program = find_perf_analyzer(options.perf_analyzer)
    settings = ServingSettings.load(options.repository) if options.repository else None
    limits = settings.limits if settings else Limits()
    with LiveServer(options.endpoint) as server, ExitStack() as stack:
        contracts = server.check(ENSEMBLES)
        item_type, behavior_type = key_types(contracts.values())
        log = read_event_log(
            options.events,
            columns=options.columns,
            item_type=item_type,
            behavior_type=behavior_type,
            users=options.users,
            seed=options.seed,
        ).moved_to(int(time.time()))
        prefix = f"loadtest-{os.urandom(4).hex()}"
        fingerprint = prefill.fingerprint(server, f"{prefix}-probe")
        if settings and settings.fingerprint != fingerprint:
            raise LoadTestError(
                f"the server answers from model {fingerprint}, {options.repository} holds {settings.fingerprint}; "
                "give the repository that the server was started with"
            )
        probed = min(options.candidates, limits.max_candidates)
        known = prefill.check_known_items(server, log, f"{prefix}-probe", items=probed)
        plan = Plan(options, log, prefix=prefix, limits=limits)
        stack.callback(prefill.forget, server, plan.visitors, progress=progress)  # whatever happens from here on
        requests = _prepared(server, plan, log, options, limits=limits, progress=progress)
        sweep = _Sweep(options, server, requests, program=program, inputs=inputs)
        points = sweep.run(plan.windows, progress)
        problems = verdict(points, options.scenario)
        if known < FEW_KNOWN:
            problems.append(f"the server's model knows only {known:.0%} of the event log's most frequent items")
        test = {
            "scenario": options.scenario.value,
            "endpoint": options.endpoint,
            "model": fingerprint,
            "events": options.events.name,
            "log_users": log.users,
            "visitors": len(plan.visitors),
            "known_items": known,
            "windows": options.windows,
            "requests_of_window": options.requests_of_window(),
            "candidates": probed if RANK in options.scenario.endpoints() else None,
            "server_seen": sweep.server_process is not None,
        }
    return Result(test=test, points=points, commands=sweep.commands, problems=problems)


def _prepared(
    server: LiveServer, plan: Plan, log: EventLog, options: LoadTestOptions, *, limits: Limits, progress: Progress
) -> Requests:
    """The server with every visitor's history, and what the requests are made from."""
    requests = Requests(log=log)
    if options.scenario is Scenario.COLD:
        return requests
    chunk = min(prefill.CHUNK_EVENTS, limits.max_events)
    prefill.feed(server, requests, plan.visitors, chunk=chunk, progress=progress)
    if RANK in options.scenario.endpoints():
        count = min(options.candidates, limits.max_candidates)
        requests.candidates = prefill.pools(
            server, log, plan.visitors, count=count, top_k=server.retrieved(), progress=progress
        )
    return requests


class _Sweep:
    """Runs jobs one window after the other."""

    def __init__(
        self, options: LoadTestOptions, server: LiveServer, requests: Requests, *, program: Path, inputs: Path | None
    ) -> None:
        self._options = options
        self._server = server
        self._requests = requests
        self._program = program
        self._inputs = inputs
        self.server_process = find_server(options.endpoint)
        self.commands: list[str] = []

    def run(self, windows: Sequence[tuple[Load, Sequence[Job]]], progress: Progress) -> list[dict[str, Any]]:
        """Figures of every load, lightest first."""
        found: dict[Load, list[Window]] = {}
        with progress(f"running {self._options.scenario.value}", len(windows)) as advance:
            for number, (load, jobs) in enumerate(windows):
                with tempfile.TemporaryDirectory(prefix="hytrec-loadtest-") as folder:
                    found.setdefault(load, []).append(self._window(jobs, Path(folder), number))
                advance(1)
        points = [point_figures(load, own, max_spread=self._options.max_spread) for load, own in sorted_by_value(found)]
        mark_saturation(points)
        return points

    def _window(self, jobs: Sequence[Job], folder: Path, number: int) -> Window:
        inputs = self._inputs or folder
        commands = [self._command(job, inputs / f"{number:03}-{job.endpoint.name}.json", folder) for job in jobs]
        self.commands += [shlex.join(command) for command in commands]
        try:
            before = self._server.statistics()
        except LoadTestError as error:
            return Window(failure=str(error))
        window = self._run(jobs, commands, folder)
        try:
            window.models = difference(self._server.statistics(), before)
            if window.failure is None:
                window.profiles = self._profiles(jobs, folder)
        except LoadTestError as error:
            window.failure = window.failure or str(error)
        return window

    def _run(self, jobs: Sequence[Job], commands: Sequence[Sequence[str]], folder: Path) -> Window:
        """All perf_analyzers of a window at once."""
        window = Window()
        deadline = time.monotonic() + self._options.timeout_s
        with Sampler(self.server_process, window.usage):
            running: list[Running] = []
            try:
                for job, command in zip(jobs, commands, strict=True):
                    running.append(Running(command, log=folder / f"{job.endpoint.name}.log"))
                endings = [one.ending(deadline) for one in running]
            finally:
                for one in running:
                    one.kill()
        window.failure = next((ending.failure for ending in endings if ending.failure), None)
        window.delayed = max(ending.delayed for ending in endings)
        return window

    def _profiles(self, jobs: Sequence[Job], folder: Path) -> Mapping[str, Profile]:
        profiles = {}
        for job in jobs:
            whole = read_profile(folder / f"{job.endpoint.name}.export.json")
            profiles[job.endpoint.name] = whole.after(job.warmup)
        return overlap(profiles) if len(profiles) > 1 else profiles

    def _command(self, job: Job, input_data: Path, folder: Path) -> list[str]:
        write_input_data(input_data, self._requests, job.endpoint, job.calls)
        return command_line(
            self._program,
            model=job.endpoint.name,
            endpoint=self._options.endpoint,
            load=job.load,
            requests=job.sent,
            input_data=input_data,
            export=folder / f"{job.endpoint.name}.export.json",
        )


def sorted_by_value(found: Mapping[Load, list[Window]]) -> list[tuple[Load, list[Window]]]:
    """Loads with their windows, lightest first."""
    return sorted(found.items(), key=lambda pair: pair[0].value)
