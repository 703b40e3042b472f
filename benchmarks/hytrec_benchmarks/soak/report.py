"""The verdict on a soak: what happened, which of it was expected and why, and what must not have happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hytrec_benchmarks.soak.actors import Actor
from hytrec_benchmarks.soak.checking import Comparison
from hytrec_benchmarks.soak.watching import leaks

_OUT_OF_TIME = "the call had less time than an answer takes"
_CONFLICT = "the last attempt that the call had time for met another writer of the same user, or a cut connection"
_EXPECTED: dict[Actor, dict[str, str]] = {
    Actor.CLICKER: {},
    Actor.READER: {},
    Actor.HURRIED: {"DeadlineExceeded, ": _OUT_OF_TIME, "Unavailable, ": _CONFLICT},
    Actor.CANCELING: {"cancelled, ": "the caller gave the call up"},
    Actor.CUT_OFF: {"DeadlineExceeded, ": _OUT_OF_TIME, "Unavailable, ": _CONFLICT},
    Actor.NEWCOMER: {},
    Actor.BAD: {"refused": "the call was wrong, and its code says so"},
    Actor.GARBLED: {"sent": "nobody waits for an answer"},
}
"""Why an outcome, told by its beginning, may come; "answered" always may, but to a bad call."""


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What a soak left.

    Args:
        outcomes: (who, what came of it) -> how often.
        balance: events by what is wrong with them.
        growth: means of the first and the last fifth of the samples, by what was sampled.
        crashed: what ended of the server; empty where all of it lives.
        cut: connections cut off.
    """

    seconds: float
    outcomes: Mapping[tuple[Actor, str], int]
    balance: Mapping[str, int]
    comparison: Comparison
    growth: dict[str, tuple[float, float]]
    crashed: str
    cut: int

    def failures(self) -> list[str]:
        """One line for everything that must not have happened."""
        found = [f"the server crashed: {self.crashed}"] if self.crashed else []
        found += [f"{count} events are {name}" for name, count in self.balance.items() if count]
        if self.comparison.wrong:
            found.append(
                f"{self.comparison.wrong} of {self.comparison.compared} answers are wrong, "
                f"the scores of the worst by {self.comparison.largest:.3g}"
            )
        if not self.comparison.compared:
            found.append("no answer was compared; soak for longer")
        found += [
            f"{actor.value}: {count} times {outcome!r}, which is not expected"
            for (actor, outcome), count in sorted(self.outcomes.items())
            if explanation(actor, outcome) is None
        ]
        idle = set(Actor) - {actor for actor, _ in self.outcomes}
        found += [f"{actor.value}: nothing was done; soak for longer" for actor in sorted(idle)]
        return [*found, *leaks(self.growth, seconds=self.seconds)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts: Counter[str] = Counter()
        for (actor, _), count in self.outcomes.items():
            counts[actor.value] += count
        return {
            "seconds": round(self.seconds, 1),
            "failures": self.failures(),
            "calls": dict(counts),
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
            "events": dict(self.balance),
            "answers": asdict(self.comparison),
            "connections_cut": self.cut,
            "growth": {name: {"first_fifth": first, "last_fifth": last} for name, (first, last) in self.growth.items()},
        }


def explanation(actor: Actor, outcome: str) -> str | None:
    """Why an outcome is none to worry about; None where it is."""
    if outcome == "answered" and actor is not Actor.BAD:
        return "the call was answered"
    return next((why for start, why in _EXPECTED[actor].items() if outcome.startswith(start)), None)
