"""Unix seconds that neither a clock set wrong at the start nor one set anew meanwhile carries away."""

from __future__ import annotations

import time


class SteadyClock:
    """The wall clock's time at the start, or the store's if that is later, and what has passed since.

    Args:
        stored: unix seconds that the store has known before.
    """

    def __init__(self, stored: float = 0.0) -> None:
        self._start = max(time.time(), stored)
        self._started = _passed()

    def __call__(self) -> float:
        """Unix seconds."""
        return self._start + _passed() - self._started


def _passed() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the machine sleeps
