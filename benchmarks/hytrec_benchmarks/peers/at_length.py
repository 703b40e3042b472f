"""One history length: the same requests for every competitor, in windows that take turns."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.signature import RANK
from hytrec_benchmarks.peers.competitors import Competitor
from hytrec_benchmarks.peers.history_traffic import HistoryTraffic
from hytrec_benchmarks.peers.options import ComparisonOptions
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.event_log import Keys
from hytrec_export.loadtest.figures import Window, point_figures
from hytrec_export.loadtest.input_data import RequestFactory
from hytrec_export.loadtest.plan import SPARE, WARMUP, Job
from hytrec_export.loadtest.traffic import SimulatedUser
from hytrec_export.progress import Progress

TRIAL_SHARE = 0.25
"""Minimum length of a trial, as a share of a window; a window's number of requests is derived from it."""
IDLE_S = 60
"""Time between a user's last event and the query that scores are compared for."""


@dataclass(kw_only=True, eq=False)
class CompetitorRun:
    """A competitor at one length.

    Args:
        users: how many are prefilled.
        sent: requests of the sequence.
        counted: requests that a window counts.
    """

    competitor: Competitor
    users: int = 0
    sent: int = 0
    counted: int = 0
    windows: list[Window] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it is out."""
        return any(window.failure is not None for window in self.windows)


@dataclass(frozen=True, kw_only=True, eq=False)
class LengthComparison:
    """Prefills the users, sizes the windows, and measures.

    Args:
        competitors: the server under test is the first.
        candidates: of users that it has prefilled, by name.
        query: candidates that scores are compared for.

    Attributes:
        scores: of the same candidates of the same user, by competitor.
    """

    competitors: Sequence[Competitor]
    traffic: HistoryTraffic
    factory: RequestFactory
    options: ComparisonOptions
    candidates: Callable[[Sequence[SimulatedUser]], dict[str, Keys]]
    query: Keys
    scores: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @cached_property
    def _runs(self) -> list[CompetitorRun]:
        return [CompetitorRun(competitor=competitor) for competitor in self.competitors]

    def measure(self, progress: Progress, *, title: str) -> list[dict[str, Any]]:
        """Figures of every competitor, in the order given."""
        options, runs = self.options, self._runs
        generator = random.Random(options.seed)  # noqa: S311 - an order, not a secret
        try:
            with progress(title, len(runs) * (1 + options.windows)) as advance:
                for run in runs:
                    self._attempt(self._begin, run)
                    advance(1)
                for _ in range(options.windows):
                    for run in generator.sample(runs, len(runs)):
                        self._attempt(self._window, run)
                        advance(1)
        finally:
            for run in runs:
                run.competitor.forget(self.traffic.users)
        return [
            {
                "competitor": run.competitor.name,
                "requests_per_window": run.counted,
                **point_figures(self.options.load, run.windows, max_spread=options.max_spread),
            }
            for run in runs
        ]

    def _attempt(self, step: Callable[[CompetitorRun], None], run: CompetitorRun) -> None:
        """A competitor that fails is out for this length; the others go on."""
        if run.failed:
            return
        try:
            step(run)
        except LoadTestError as error:
            run.windows.append(Window(failure=str(error)))

    def _begin(self, run: CompetitorRun) -> None:
        """Query its scores, and find out how many requests fill a window."""
        seconds, threads = self.options.window_seconds, self.options.load.threads
        job = self._job(run, threads)
        user = job.entries[0].user
        now_s = int(self.factory.log.times[user.begin - 1]) + IDLE_S
        self.scores[run.competitor.name] = run.competitor.scores(user, self.query, now_s)
        rate, taken_s = self._trial(run, job)
        if taken_s < TRIAL_SHARE * seconds:
            rate, _ = self._trial(run, self._job(run, whole_rounds(rate * TRIAL_SHARE * seconds, threads)))
        run.counted = whole_rounds(rate * seconds, threads)

    def _trial(self, run: CompetitorRun, job: Job) -> tuple[float, float]:
        """Requests/s, and the seconds taken."""
        window = run.competitor.window(job)
        if window.failure is not None or not window.requests:
            raise LoadTestError(window.failure or "no request was counted")
        (profile,) = window.profiles.values()
        return profile.throughput, profile.seconds

    def _window(self, run: CompetitorRun) -> None:
        run.windows.append(run.competitor.window(self._job(run, run.counted)))

    def _job(self, run: CompetitorRun, requests: int) -> Job:
        """The next requests of the sequence, warm-up first, for a competitor whose users are prefilled."""
        threads = self.options.load.threads
        warmup = whole_rounds(WARMUP * requests, threads)
        first, stop = run.sent, run.sent + warmup + requests
        entries = self.traffic.requests(first, stop + SPARE * threads)
        self._prefill(run)
        run.sent = stop
        (endpoint,) = self.options.scenario.endpoints()
        return Job(endpoint=endpoint, load=self.options.load, entries=entries, warmup=warmup, counted=requests)

    def _prefill(self, run: CompetitorRun) -> None:
        """Append the histories of all users so far."""
        ours = self._runs[0]
        if run is not ours:
            self._prefill(ours)  # whose retriever gives the candidates
        new = self.traffic.users[run.users :]
        if not new:
            return
        run.competitor.prefill(new)
        run.users += len(new)
        if run is ours and RANK in self.options.scenario.endpoints():
            self.factory.candidates |= self.candidates(new)


def whole_rounds(requests: float, threads: int) -> int:
    """At least so many requests, as many for each thread and one at least."""
    return threads * max(1, math.ceil(requests / threads))
