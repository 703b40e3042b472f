"""Lengths that the dynamic axes of a request are padded to, so that requests share batches and captured shapes."""

from __future__ import annotations

from dataclasses import dataclass

from hytrec_export.runtime.padding import STEPS_PER_OCTAVE, bucket_length
from hytrec_export.settings import ServingSettings


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Padded lengths.

    Args:
        max_events: largest T of the encoder; None where it takes any.
        max_candidates, max_excluded: largest N and X.
        short_events: T up to it is padded to 1 or to it; 0 pads to buckets alone.
        steps_per_octave: of the buckets, see `bucket_length`.
    """

    max_events: int | None
    max_candidates: int
    max_excluded: int | None
    short_events: int = 0
    steps_per_octave: int = STEPS_PER_OCTAVE

    @classmethod
    def of(
        cls,
        settings: ServingSettings,
        *,
        any_events: bool = False,
        short_events: int = 0,
        steps_per_octave: int = STEPS_PER_OCTAVE,
    ) -> Lengths:
        """Lengths of a build."""
        limits = settings.limits
        return cls(
            max_events=None if any_events else limits.max_events,
            max_candidates=limits.max_candidates,
            max_excluded=None if any_events else limits.max_excluded + settings.sizes.window,
            short_events=min(short_events, limits.max_events),
            steps_per_octave=steps_per_octave,
        )

    def fit(self, events: int) -> bool:
        """Whether one run of the encoder takes so many events."""
        return self.max_events is None or events <= self.max_events

    def events(self, count: int) -> int:
        """T of a request with so many events; 1 for none."""
        if 1 < count <= self.short_events:
            return self.short_events
        return self._bucket(count, count * 2 if self.max_events is None else self.max_events)

    def candidates(self, count: int) -> int:
        """N of a request with so many candidates."""
        return self._bucket(count, self.max_candidates)

    def excluded(self, count: int) -> int:
        """X of a request with so many excluded items."""
        return self._bucket(count, count * 2 if self.max_excluded is None else self.max_excluded)

    def _bucket(self, count: int, maximum: int) -> int:
        return bucket_length(count, max(1, maximum), steps_per_octave=self.steps_per_octave)
