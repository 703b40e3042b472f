"""Measurement windows of one server: runs of perf_analyzer, with the server's statistics and resource use."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.figures import Window
from hytrec_export.loadtest.input_data import RequestFactory, write_input_data
from hytrec_export.loadtest.perf_analyzer import Running, command_line, credential_arguments
from hytrec_export.loadtest.plan import Job
from hytrec_export.loadtest.profile import Profile, overlap, read_profile
from hytrec_export.loadtest.sampling import Sampler, find_server
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.loadtest.statistics import difference


@dataclass(frozen=True, kw_only=True, eq=False)
class Analyzer:
    """How perf_analyzer is run.

    Args:
        timeout_s: of one run.
        inputs: folder to keep its input files in; None keeps none.
        commands: of every run so far, as a shell takes them.
    """

    program: Path
    timeout_s: float
    inputs: Path | None = None
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class ServerWindows:
    """Runs the windows of a server."""

    _server: LiveServer
    _factory: RequestFactory
    _analyzer: Analyzer

    @cached_property
    def process(self) -> Any | None:
        """The process that is sampled, a psutil.Process; None where the server is not on this machine."""
        return find_server(self._server.endpoint)

    def window(self, jobs: Sequence[Job]) -> Window:
        """Run jobs at once; whatever goes wrong is in the window."""
        with tempfile.TemporaryDirectory(prefix="hytrec-loadtest-") as name:
            return self._window(jobs, Path(name))

    def _window(self, jobs: Sequence[Job], folder: Path) -> Window:
        number, inputs = len(self._analyzer.commands), self._analyzer.inputs or folder
        commands = [self._command(job, inputs / f"{number:03}-{job.endpoint.name}.json", folder) for job in jobs]
        self._analyzer.commands.extend(shlex.join(command) for command in commands)
        credentials = self._server.credentials
        token = credentials.read_token()
        commands = [[*command, *credential_arguments(credentials, token)] for command in commands]
        try:
            before = self._server.statistics()
        except LoadTestError as error:
            return Window(failure=str(error))
        window = self._run(jobs, commands, folder, token)
        try:
            window.models = difference(self._server.statistics(), before)
            if window.failure is None:
                window.profiles = self._profiles(jobs, folder)
        except LoadTestError as error:
            window.failure = window.failure or str(error)
        return window

    def _run(self, jobs: Sequence[Job], commands: Sequence[Sequence[str]], folder: Path, token: str | None) -> Window:
        """All perf_analyzers of a window at once."""
        window = Window()
        deadline = time.monotonic() + self._analyzer.timeout_s
        with Sampler(self.process, window.usage):
            running: list[Running] = []
            try:
                for job, command in zip(jobs, commands, strict=True):
                    running.append(Running(command, log=folder / f"{job.endpoint.name}.log", secret=token))
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
        write_input_data(input_data, self._factory, job.endpoint, job.entries)
        return command_line(
            self._analyzer.program,
            model=job.endpoint.name,
            endpoint=self._server.endpoint,
            load=job.load,
            requests=job.sent,
            input_data=input_data,
            export=folder / f"{job.endpoint.name}.export.json",
        )
