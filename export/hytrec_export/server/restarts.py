"""When a server that crashed is started again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from hytrec_export.server.options import ServerOptions

MAX_DELAY_S = 30.0


class RestartPolicy:
    """Exponential backoff, up to a number of crashes within a window of time.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(self, options: ServerOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._crashes: deque[float] = deque()

    @property
    def crashes(self) -> int:
        """Crashes in the window that ended with the last one."""
        return len(self._crashes)

    def delay_after_crash(self) -> float | None:
        """Count a crash that happened now; seconds until the next start, None when there is to be none."""
        now = self._clock()
        self._crashes.append(now)
        while self._crashes[0] < now - self._options.crash_window_s:
            self._crashes.popleft()
        if len(self._crashes) >= self._options.max_crashes:
            return None
        return float(min(MAX_DELAY_S, self._options.restart_delay_s * 2 ** (len(self._crashes) - 1)))
