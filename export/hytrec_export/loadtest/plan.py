"""Every run of a load test, planned before the first: which calls, from how many threads, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hytrec.contract import Ensemble
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.options import MIXED_SHARES, Load, LoadTestOptions, Scenario
from hytrec_export.loadtest.traffic import Call, ColdTraffic, Traffic, Visitor
from hytrec_export.settings import Limits

WARMUP = 0.1
"""Share of a window's requests that come before those that count."""
SPARE = 2
"""Entries of the input beyond the run, for each lane: perf_analyzer begins anew at the end of its input."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One run of one perf_analyzer.

    Args:
        calls: entries of its input, more than are sent.
        warmup: requests sent before those that count.
        requests: that count.
    """

    endpoint: Ensemble
    load: Load
    calls: list[Call]
    warmup: int
    requests: int

    @property
    def sent(self) -> int:
        """Requests that perf_analyzer sends, warm-up included."""
        return self.warmup + self.requests


class Plan:
    """Every job of every window, and the visitors that they need."""

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
    def visitors(self) -> list[Visitor]:
        """Users that have a call in some window."""
        return [visitor for visitor in self._traffic.visitors if visitor.calls_made]

    def _jobs(self, load: Load) -> list[Job]:
        """Jobs of one window: all draw from one traffic, dealt to lanes together, so no visitor is in two of them."""
        scenario, counted = self._options.scenario, self._options.requests_of_window()
        endpoints = scenario.endpoints()
        shares = MIXED_SHARES if scenario is Scenario.MIXED else {endpoints[0].name: 1.0}
        loads = load.split(shares)
        jobs = []
        for endpoint in endpoints:
            own = loads[endpoint.name]
            requests = max(own.fewest_requests, round(counted * shares[endpoint.name]))
            jobs.append(Job(endpoint=endpoint, load=own, calls=[], warmup=round(WARMUP * requests), requests=requests))
        self._deal(jobs)
        return jobs

    def _deal(self, jobs: Sequence[Job]) -> None:
        """Fill each job's calls from lanes of its own."""
        lanes = sum(job.load.lanes for job in jobs)
        wanted = [job.sent + SPARE * job.load.lanes for job in jobs]
        rounds = max(-(-count // job.load.lanes) for job, count in zip(jobs, wanted, strict=True))
        first = 0
        calls = self._traffic.take(rounds * lanes, lanes=lanes)
        for job, count in zip(jobs, wanted, strict=True):
            own = [call for place, call in enumerate(calls) if first <= place % lanes < first + job.load.lanes]
            first += job.load.lanes
            job.calls.extend(own[:count])
            for call in own[count:]:
                call.visitor.calls_made -= 1  # the last ones of their lane: they come in a later window
