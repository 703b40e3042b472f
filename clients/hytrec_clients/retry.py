"""Retry policy and time budget of a request: arithmetic only, nothing sleeps here."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hytrec_clients.errors import InvalidRequest

DEFAULT_TIMEOUT_S = 5.0
"""Time for a request, all its attempts and waits together."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter, and the share of the remaining time an attempt may take.

    Args:
        first_backoff_s: upper end of the first wait; it doubles with every attempt. A request with less
            time left than this gives up.
        max_backoff_s: upper end of any wait.
        attempt_share: share of the remaining time that one attempt may take, so that a lost response leaves time for a
            retry. A request that really takes longer than this share of `timeout_s` needs a larger `timeout_s`.
        min_attempt_s: an attempt may take this long whatever its share, as far as time is left.
        max_attempts: maximum attempts of a call; None for as many as its time allows.
        max_pause_s: a server among several that failed is left alone for a quarter of a second, doubling up to this
            long, and used again when it is ready.
    """

    first_backoff_s: float = 0.02
    max_backoff_s: float = 1.0
    attempt_share: float = 0.5
    min_attempt_s: float = 0.25
    max_attempts: int | None = None
    max_pause_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.first_backoff_s <= self.max_backoff_s:
            raise InvalidRequest(
                f"first_backoff_s is {self.first_backoff_s}; it must be over 0 and at most max_backoff_s "
                f"({self.max_backoff_s})",
                field="first_backoff_s",
            )
        if not 0 < self.attempt_share <= 1:
            raise InvalidRequest(
                f"attempt_share is {self.attempt_share}; it must be over 0 and at most 1", field="attempt_share"
            )
        if self.min_attempt_s < 0:
            raise InvalidRequest(
                f"min_attempt_s is {self.min_attempt_s}; it must not be negative", field="min_attempt_s"
            )
        if self.max_attempts is not None and self.max_attempts < 1:
            raise InvalidRequest(f"max_attempts is {self.max_attempts}; it must be at least 1", field="max_attempts")
        if not 0 < self.max_pause_s < math.inf:
            raise InvalidRequest(
                f"max_pause_s is {self.max_pause_s}; it must be over 0 seconds and finite", field="max_pause_s"
            )


@dataclass(kw_only=True)
class Budget:
    """The time of one logical request.

    Args:
        policy: how it is spent.
        timeout_s: all of it, in seconds from now.
        clock: monotonic seconds.
        uniform: draws between two bounds.

    Raises:
        InvalidRequest: `timeout_s` is not over 0, or has no end.
    """

    policy: RetryPolicy
    timeout_s: float
    clock: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform
    attempts: int = 0
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < math.inf:
            raise InvalidRequest(
                f"timeout_s is {self.timeout_s}; it must be over 0 seconds and finite", field="timeout_s"
            )
        self._end = self.clock() + self.timeout_s

    def attempt_timeout_s(self) -> float:
        """Time for the attempt that begins now."""
        self.attempts += 1
        left = self.left_s()
        return max(left * self.policy.attempt_share, min(left, self.policy.min_attempt_s))

    def left_s(self) -> float:
        """Time that is left."""
        return max(self._end - self.clock(), 0.0)

    def backoff_s(self, *, at_once: bool = False) -> float | None:
        """How long to wait before the next attempt; None when no attempt or too little time is left for one.

        Args:
            at_once: the next attempt goes to another server, and need not wait.
        """
        left = self._end - self.clock()
        if left < self.policy.first_backoff_s or self.attempts == self.policy.max_attempts:
            return None
        if at_once:
            return 0.0
        doubled = self.policy.first_backoff_s * 2.0 ** min(self.attempts - 1, 64)
        return self.uniform(0.0, min(doubled, self.policy.max_backoff_s, left / 2))
