"""Counters published as Triton custom metrics, beside Triton's own on its metrics port."""

from __future__ import annotations

from threading import Lock
from typing import Any

import triton_python_backend_utils as pb_utils

from hytrec.contract import Model
from hytrec_export.serving.counters import DESCRIPTIONS, ServerCounter


class TritonCounters:
    """Raises the server's metrics; does nothing where the server publishes none.

    Args:
        model: whose step counts, the metrics' label; also where one fused Triton model runs all steps.
        counters: the metrics to publish; each starts at 0.
    """

    def __init__(self, *, model: Model, counters: tuple[ServerCounter, ...]) -> None:
        self._metrics: dict[ServerCounter, Any] = {}
        self._counting = Lock()  # a metric holds its message to the server in itself: one thread at a time
        self._families = []  # a metric goes with its family
        try:
            for counter in counters:
                family = pb_utils.MetricFamily(
                    name=counter.value, description=DESCRIPTIONS[counter], kind=pb_utils.MetricFamily.COUNTER
                )
                self._families.append(family)
                self._metrics[counter] = family.Metric(labels={"model": model.name})
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_warn(f"{model.name} publishes no metrics of its own: {error}")
            self._metrics.clear()

    def add(self, counter: ServerCounter, count: int) -> None:
        """Raise `counter` by `count`."""
        metric = self._metrics.get(counter)
        if metric is not None:
            with self._counting:
                metric.increment(count)
