"""The verdict on a soak: what happened, which of it was expected and why, and what must not have happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hytrec_benchmarks.soak.actors import Actor
from hytrec_benchmarks.soak.checking import Comparison
from hytrec_benchmarks.soak.intruders import AWAY
from hytrec_benchmarks.soak.watching import leaks

_OUT_OF_TIME = "the deadline was shorter than a response takes"
_CONFLICT = "the last attempt within the deadline met another writer of the same user, or a cut connection"
_EXPECTED: dict[Actor, dict[str, str]] = {
    Actor.SHORT_DEADLINE: {"DeadlineExceeded, ": _OUT_OF_TIME, "Unavailable, ": _CONFLICT},
    Actor.CANCELLING: {"cancelled, ": "the client cancelled the request"},
    Actor.CUT_OFF: {"DeadlineExceeded, ": _OUT_OF_TIME, "Unavailable, ": _CONFLICT},
    Actor.INVALID: {"rejected": "the request was invalid, and its code says so"},
    Actor.MALFORMED: {"sent": "no response is awaited"},
    Actor.FUZZING: {"sent": "a mutated request may get any response"},
}
"""Why an outcome, by its beginning, is expected; "completed" always is, but of an invalid request."""


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What a soak left.

    Args:
        outcomes: (actor, outcome) -> how often.
        faults: see `EventLedger.faults`.
        growth: means of the first and the last fifth of the samples, by what was sampled.
        crashed: what ended of the server; empty where all of it lives.
        restarts: how often it died of a bug of Triton's and was started again.
        undisturbed_s: since the last restart, which `growth` is of.
        cut: connections cut.
    """

    seconds: float
    outcomes: Mapping[tuple[Actor, str], int]
    faults: Mapping[str, int]
    comparison: Comparison
    growth: dict[str, tuple[float, float]]
    crashed: str
    cut: int
    undisturbed_s: float
    restarts: int = 0

    def failures(self) -> list[str]:
        """One line for everything that must not have happened."""
        found = [f"the server crashed: {self.crashed}"] if self.crashed else []
        found += [f"{count} events are {name}" for name, count in self.faults.items() if count]
        if self.comparison.wrong:
            found.append(
                f"{self.comparison.wrong} of {self.comparison.compared} responses are wrong, "
                f"the scores of the worst by {self.comparison.largest:.3g}"
            )
        if not self.comparison.compared:
            found.append("no response was compared; soak for longer")
        found += [
            f"{actor.value}: {count} times {outcome!r}, which is not expected"
            for (actor, outcome), count in sorted(self.outcomes.items())
            if explanation(actor, outcome) is None and not (self.restarts and outcome == AWAY)
        ]
        idle = set(Actor) - {actor for actor, _ in self.outcomes}
        found += [f"{actor.value}: no request was made; soak for longer" for actor in sorted(idle)]
        return [*found, *leaks(self.growth, seconds=self.undisturbed_s)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts: Counter[str] = Counter()
        for (actor, _), count in self.outcomes.items():
            counts[actor.value] += count
        return {
            "seconds": round(self.seconds, 1),
            "restarts": self.restarts,
            "failures": self.failures(),
            "requests": dict(counts),
            "outcomes": [
                {
                    "actor": actor.value,
                    "outcome": outcome,
                    "count": count,
                    "expected": explanation(actor, outcome) is not None,
                    "explanation": explanation(actor, outcome) or "none: this is a failure",
                }
                for (actor, outcome), count in sorted(self.outcomes.items())
            ],
            "events": dict(self.faults),
            "responses": asdict(self.comparison),
            "connections_cut": self.cut,
            "growth": {name: {"first_fifth": first, "last_fifth": last} for name, (first, last) in self.growth.items()},
        }


def explanation(actor: Actor, outcome: str) -> str | None:
    """Why an outcome is expected; None where it is not."""
    if outcome == "completed" and actor is not Actor.INVALID:
        return "the request was completed"
    return next((why for start, why in _EXPECTED.get(actor, {}).items() if outcome.startswith(start)), None)
