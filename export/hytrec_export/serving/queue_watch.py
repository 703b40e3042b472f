"""How long requests may have waited in Triton's queues, and how many of them are too many.

Triton tells a python model neither when a request arrived nor what else waits, and a queue policy of its own stalls
bursts (see `repository.dynamic_batching`). But it publishes how many requests wait for a model and how many the model
has done. Once as many more are done as waited at an earlier look, those have all been taken from the queue, and what
waits now arrived after that look.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from hytrec_export.serving.tuning import FEW_QUEUED, MAX_QUEUE_S, MAX_QUEUED, QUEUE_LOOK_S

SLACK_S = 2 * QUEUE_LOOK_S
"""Where no queue is found, a request may still have waited for so long between two looks."""
BLIND_AFTER_S = 2.0
"""Without a look for so long nothing is known, and nothing is dropped."""
_COUNT = re.compile(
    rb'^nv_inference_(pending_request_count|request_success|request_failure)\{model="([^"]+)"[^}]*\} (\S+)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Queued:
    """Requests of a model at one look: those that wait, and those that are done."""

    waiting: int
    done: int


def queued_of(metrics: bytes) -> dict[str, Queued]:
    """Every model of Triton's metrics, in Prometheus's text format, that has a queue."""
    waiting: dict[str, int] = {}
    done: dict[str, int] = {}
    for kind, model, value in _COUNT.findall(metrics):
        counts = waiting if kind.startswith(b"pending") else done
        counts[model.decode()] = counts.get(model.decode(), 0) + int(float(value))
    return {model: Queued(waiting=count, done=done.get(model, 0)) for model, count in waiting.items()}


@dataclass
class _Queue:
    """One model's queue, look by look.

    Args:
        empty_since: whatever waits now arrived after it, monotonic seconds.
    """

    empty_since: float
    waiting: int = 0
    _earlier: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=1 << 12))

    def look(self, now: float, queued: Queued) -> None:
        self.waiting = queued.waiting
        self._earlier.append((now, queued.waiting + queued.done))
        while self._earlier and self._earlier[0][1] <= queued.done:
            self.empty_since, _ = self._earlier.popleft()

    def restart(self, now: float) -> None:
        self.empty_since, self.waiting = now, 0
        self._earlier.clear()

    def too_many(self, now: float) -> int:
        """Requests to refuse, so that half of what may wait is left."""
        waited_s = now - self.empty_since - SLACK_S
        allowed = MAX_QUEUED if waited_s <= MAX_QUEUE_S else int(self.waiting * MAX_QUEUE_S / waited_s)
        return max(0, self.waiting - max(allowed // 2, FEW_QUEUED)) if self.waiting > max(allowed, FEW_QUEUED) else 0


class QueueWatch:
    """The queue of a model, and those of the models after it. Safe to share between threads.

    Args:
        model: whose requests are judged.
        later: models that its requests go to afterwards.
        now: monotonic seconds.
    """

    def __init__(self, model: str, later: Sequence[str] = (), *, now: float) -> None:
        self._model = model
        self._queues = {name: _Queue(empty_since=now) for name in (model, *later)}
        self._lock = Lock()
        self._too_many = 0
        self._fullest = model
        self._looked_at = -math.inf

    def look(self, now: float, queued: Mapping[str, Queued]) -> bool:
        """Take in what waits at `now`; whether it is too much."""
        with self._lock:
            for name, queue in self._queues.items():
                if name in queued:
                    self._looked_at = now
                    queue.look(now, queued[name])
            self._fullest = max(self._queues, key=lambda name: self._queues[name].too_many(now))
            self._too_many = self._queues[self._fullest].too_many(now)
            return self._too_many > 0

    def was_idle(self, now: float) -> None:
        """The model was free for a while until `now`, so nothing waited for it."""
        with self._lock:
            self._queues[self._model].restart(now)

    def waited_s(self, now: float) -> float:
        """How long a request that the model gets at `now` may have waited at most; 0 where no look can tell."""
        with self._lock:
            waited_s = now - self._queues[self._model].empty_since
            blind = now - self._looked_at > BLIND_AFTER_S
        return 0.0 if blind else waited_s

    def refuse(self, count: int) -> tuple[int, str]:
        """How many of the next `count` requests to refuse, because too many wait, and for which model."""
        with self._lock:
            refused = min(count, self._too_many)
            self._too_many -= refused
            return refused, self._fullest
