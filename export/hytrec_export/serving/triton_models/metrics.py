"""Counts published as Triton custom metrics, beside Triton's own on its metrics port."""

from __future__ import annotations

from threading import Lock
from typing import Any

import triton_python_backend_utils as pb_utils

from hytrec.contract import Model
from hytrec_export.serving.counters import DESCRIPTIONS, ServerCounter


class TritonCounters:
    """Adds to the server's metrics; counts nothing where the server publishes none.

    Args:
        model: whose step counts, the metrics' label; also where one Triton model takes all steps.
        events: what it counts; each stands at 0 from the start.
    """

    def __init__(self, *, model: Model, events: tuple[ServerCounter, ...]) -> None:
        self._metrics: dict[ServerCounter, Any] = {}
        self._counting = Lock()  # a metric carries its request to the server in itself: one at a time
        self._families = []  # a metric goes with its family
        try:
            for event in events:
                family = pb_utils.MetricFamily(
                    name=event.value, description=DESCRIPTIONS[event], kind=pb_utils.MetricFamily.COUNTER
                )
                self._families.append(family)
                self._metrics[event] = family.Metric(labels={"model": model.name})
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_warn(f"{model.name} publishes no metrics of its own: {error}")
            self._metrics.clear()

    def add(self, event: ServerCounter, count: int) -> None:
        """Count `event` `count` times more."""
        metric = self._metrics.get(event)
        if metric is not None:
            with self._counting:
                metric.increment(count)
