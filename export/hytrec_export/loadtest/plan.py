"""Every run of perf_analyzer, planned before the first: which requests, from how many threads, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hytrec.contract import Ensemble
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.options import MIXED_SHARES, Load, LoadTestOptions, Scenario
from hytrec_export.loadtest.traffic import ColdTraffic, SimulatedUser, Traffic, UserRequest
from hytrec_export.settings import Limits

WARMUP = 0.1
"""Warm-up requests, as a share of those that count."""
SPARE = 2
"""Input entries beyond the run, for each thread: perf_analyzer starts over at the end of its input."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One run of one perf_analyzer.

    Args:
        entries: of its input, more than are sent.
        warmup: requests sent before those that count.
        counted: requests that count.
    """

    endpoint: Ensemble
    load: Load
    entries: list[UserRequest]
    warmup: int
    counted: int

    @property
    def sent(self) -> int:
        """Requests that perf_analyzer sends, warm-up included."""
        return self.warmup + self.counted


class Plan:
    """Every job of every window, and the users that they need."""

    def __init__(self, options: LoadTestOptions, log: EventLog, *, prefix: str, limits: Limits) -> None:
        self._options = options
        self._traffic: Traffic | ColdTraffic = (
            ColdTraffic(log, prefix=prefix, seed=options.seed, max_events=limits.max_events)
            if options.scenario is Scenario.COLD
            else Traffic(log, prefix=prefix, seed=options.seed)
        )
        # Windows of one load are far apart in time, so that a drift of the machine shows as spread.
        self.windows = [(load, self._jobs(load)) for _ in range(options.windows) for load in options.loads()]

    @property
    def users(self) -> list[SimulatedUser]:
        """Users that have a request in some window."""
        return [user for user in self._traffic.users if user.sent]

    def _jobs(self, load: Load) -> list[Job]:
        """Jobs of one window, assigned from one traffic, so that no user is in two of them."""
        scenario, counted = self._options.scenario, self._options.requests_per_window()
        endpoints = scenario.endpoints()
        shares = MIXED_SHARES if scenario is Scenario.MIXED else {endpoints[0].name: 1.0}
        loads = load.split(shares)
        jobs = []
        for endpoint in endpoints:
            own = loads[endpoint.name]
            requests = max(own.min_requests, round(counted * shares[endpoint.name]))
            jobs.append(Job(endpoint=endpoint, load=own, entries=[], warmup=round(WARMUP * requests), counted=requests))
        self._assign(jobs)
        return jobs

    def _assign(self, jobs: Sequence[Job]) -> None:
        """Fill each job's entries from threads of its own."""
        threads = sum(job.load.threads for job in jobs)
        wanted = [job.sent + SPARE * job.load.threads for job in jobs]
        rounds = max(-(-count // job.load.threads) for job, count in zip(jobs, wanted, strict=True))
        first = 0
        requests = self._traffic.take(rounds * threads, threads=threads)
        for job, count in zip(jobs, wanted, strict=True):
            own = [
                request for place, request in enumerate(requests) if first <= place % threads < first + job.load.threads
            ]
            first += job.load.threads
            job.entries.extend(own[:count])
            for request in own[count:]:
                request.user.sent -= 1  # the last ones of their thread: a later window sends them
