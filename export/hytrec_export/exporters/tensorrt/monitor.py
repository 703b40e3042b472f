"""Progress of a compilation: TensorRT's nested phases as percent of one engine."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from hytrec_export.progress import Advance

PARTS = 100
"""Of one engine."""


@dataclass
class _Phase:
    steps: int
    done: int = 0
    inner: dict[str, _Phase] = field(default_factory=dict)

    def share(self) -> float:
        """How much of the phase is done, in 0 to 1; the current step counts by its inner phases."""
        current = max((phase.share() for phase in self.inner.values()), default=0.0)
        return min(1.0, (self.done + current) / max(1, self.steps))


class Monitor:
    """Calls `advance` for every one of `PARTS` that is done, from any thread. TensorRT takes `monitor`.

    Args:
        trt: the module tensorrt or tensorrt_rtx.
    """

    def __init__(self, trt: Any, advance: Advance) -> None:
        self._advance = advance
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._reported = 0
        self.monitor = _monitor(trt, self)

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            phase = self._phases[name] = _Phase(steps)
            if parent in self._phases:
                self._phases[parent].inner[name] = phase

    def step(self, name: str) -> None:
        """A step of a phase is done, and with it the phases inside it."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is None:
                return
            phase.done += 1
            phase.inner.clear()
            self._report()

    def finish(self, name: str) -> None:
        """A phase ends, all of its steps done or not."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = phase.steps
                self._report()
                del self._phases[name]

    def _report(self) -> None:
        outermost = next(iter(self._phases.values()))
        done = int(PARTS * outermost.share())
        if done > self._reported:
            self._advance(done - self._reported)
            self._reported = done


def _monitor(trt: Any, monitor: Monitor) -> Any:
    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            monitor.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002
            monitor.step(phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            monitor.finish(phase_name)

    return ProgressMonitor()
