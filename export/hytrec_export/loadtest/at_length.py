"""One length of history: the same calls for every contender, in windows that take turns."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.signature import RANK
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.contenders import Contender
from hytrec_export.loadtest.event_log import Keys
from hytrec_export.loadtest.figures import Window, point_figures
from hytrec_export.loadtest.history_traffic import HistoryTraffic
from hytrec_export.loadtest.input_data import Requests
from hytrec_export.loadtest.options import Load, LoadTestOptions
from hytrec_export.loadtest.plan import SPARE, WARMUP, Job
from hytrec_export.loadtest.traffic import Visitor
from hytrec_export.progress import Progress

FEWEST_ROUNDS = 1
"""Requests that a window counts at least, for each one under way; as many more warm up."""
TRIAL_SHARE = 0.25
"""Share of a window that a trial takes at least; the number of a window's requests comes from it."""
IDLE_S = 60
"""Time between a user's last event and the question that scores are compared for."""


@dataclass(kw_only=True, eq=False)
class Entrant:
    """A contender at one length.

    Args:
        visitors: how many it knows.
        calls: of the sequence that it has had.
        requests: that a window counts.
    """

    contender: Contender
    visitors: int = 0
    calls: int = 0
    requests: int = 0
    windows: list[Window] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it takes part no more."""
        return any(window.failure is not None for window in self.windows)


class AtLength:
    """Brings the visitors, sets how much is measured, and measures.

    Args:
        contenders: the server under test is the first.
        pools: candidates of visitors that it knows, by name.
        question: candidates that scores are compared for.

    Attributes:
        scores: what each contender gave the same candidates of the same user.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        traffic: HistoryTraffic,
        *,
        requests: Requests,
        options: LoadTestOptions,
        load: Load,
        pools: Callable[[Sequence[Visitor]], dict[str, Keys]],
        question: Keys,
    ) -> None:
        self._entrants = [Entrant(contender=contender) for contender in contenders]
        self._traffic = traffic
        self._requests = requests
        self._options = options
        self._load = load
        self._pools = pools
        self._question = question
        (self._endpoint,) = options.scenario.endpoints()
        self.scores: dict[str, NDArray[np.float32]] = {}

    def run(self, progress: Progress, *, title: str) -> list[dict[str, Any]]:
        """Figures of every contender, in the order given."""
        options, entrants = self._options, self._entrants
        generator = random.Random(options.seed)  # noqa: S311 - an order, not a secret
        try:
            with progress(title, len(entrants) * (1 + options.windows)) as advance:
                for entrant in entrants:
                    self._attempt(self._begin, entrant)
                    advance(1)
                for _ in range(options.windows):
                    for entrant in generator.sample(entrants, len(entrants)):
                        self._attempt(self._window, entrant)
                        advance(1)
        finally:
            for entrant in entrants:
                entrant.contender.forget(self._traffic.visitors)
        return [
            {
                "contender": entrant.contender.name,
                "requests_of_window": entrant.requests,
                **point_figures(self._load, entrant.windows, max_spread=options.max_spread),
            }
            for entrant in entrants
        ]

    def _attempt(self, step: Callable[[Entrant], None], entrant: Entrant) -> None:
        """A contender that fails is out for this length; the others go on."""
        if entrant.failed:
            return
        try:
            step(entrant)
        except LoadTestError as error:
            entrant.windows.append(Window(failure=str(error)))

    def _begin(self, entrant: Entrant) -> None:
        """Compare its scores, and find out how many requests fill a window."""
        seconds, lanes = self._options.window_seconds, self._load.lanes
        job = self._job(entrant, lanes)
        self.scores[entrant.contender.name] = self._scores(entrant.contender, job.calls[0].visitor)
        rate, taken_s = self._trial(entrant, job)
        if taken_s < TRIAL_SHARE * seconds:
            rate, _ = self._trial(entrant, self._job(entrant, requests_of(rate, TRIAL_SHARE * seconds, lanes)))
        entrant.requests = requests_of(rate, seconds, lanes)

    def _trial(self, entrant: Entrant, job: Job) -> tuple[float, float]:
        """Answers a second, and the seconds that it took."""
        window = entrant.contender.window(job)
        if window.failure is not None or not window.requests:
            raise LoadTestError(window.failure or "no request was counted")
        (profile,) = window.profiles.values()
        return profile.throughput, profile.seconds

    def _window(self, entrant: Entrant) -> None:
        entrant.windows.append(entrant.contender.window(self._job(entrant, entrant.requests)))

    def _job(self, entrant: Entrant, requests: int) -> Job:
        """The next calls of the sequence for a contender that knows their visitors; those that warm up come first."""
        lanes = self._load.lanes
        warmup = whole_rounds(WARMUP * requests, lanes)
        first, stop = entrant.calls, entrant.calls + warmup + requests
        calls = self._traffic.calls(first, stop + SPARE * lanes)
        self._bring(entrant)
        entrant.calls = stop
        return Job(endpoint=self._endpoint, load=self._load, calls=calls, warmup=warmup, requests=requests)

    def _bring(self, entrant: Entrant) -> None:
        """Let a contender know all visitors so far."""
        ours = self._entrants[0]
        if entrant is not ours:
            self._bring(ours)  # whose retriever gives the candidates
        new = self._traffic.visitors[entrant.visitors :]
        if not new:
            return
        entrant.contender.bring(new)
        entrant.visitors += len(new)
        if entrant is ours and self._endpoint is RANK:
            self._requests.candidates |= self._pools(new)

    def _scores(self, contender: Contender, visitor: Visitor) -> NDArray[np.float32]:
        return contender.scores(visitor, self._question, int(self._requests.log.times[visitor.begin - 1]) + IDLE_S)


def requests_of(rate: float, seconds: float, lanes: int) -> int:
    """Requests that take about so many seconds at so many a second; whole rounds of the lanes, and not too few."""
    return max(FEWEST_ROUNDS * lanes, whole_rounds(rate * seconds, lanes))


def whole_rounds(requests: float, lanes: int) -> int:
    """At least so many requests, as many for each lane and one at least."""
    return lanes * max(1, math.ceil(requests / lanes))
