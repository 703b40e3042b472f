"""What is sent, and what became of it, by the model that responded."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hytrec_benchmarks.soak.actors import Actor, Workload
from hytrec_benchmarks.soak.checking import Reservoir
from hytrec_clients import ClientError, Ranking, Recommendation

MAX_SAMPLES = 200
"""Of each model."""


@dataclass(kw_only=True, eq=False)
class TwoModelWorkload(Workload):
    """Keeps samples of responses by the model that made them, and what every request took.

    Args:
        by_model: samples by fingerprint.
        spans: (start, end) of every request, monotonic seconds.
        failures: what a client gave up with.
    """

    by_model: dict[str, Reservoir] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def sample(self, user: str, now: int, response: Ranking | Recommendation) -> None:
        """Offer a response to the comparison of its model."""
        fingerprint = response.receipt.model_fingerprint
        self.responses = self.by_model.setdefault(fingerprint, Reservoir(size=MAX_SAMPLES, random=self.random))
        super().sample(user, now, response)

    async def repeat_timed(self, actor: Actor, act: Callable[[], Awaitable[str]]) -> None:
        """Let one actor act until it is over; a request that fails is a final failure."""
        while not self.over.is_set():
            start = time.monotonic()
            try:
                outcome = await act()
            except ClientError as error:
                outcome = "failed"
                self.failures.append(str(error))
            self.spans.append((start, time.monotonic()))
            self.outcomes[actor, outcome] += 1

    def slowest_s(self, start: float, end: float) -> float:
        """The longest request that was in flight in a time."""
        spans = [stop - begun for begun, stop in self.spans if begun < end and stop > start]
        return max(spans, default=0.0)
