"""Publishes request metrics as Triton custom metrics, once a second: no request waits for a message to the server."""

from __future__ import annotations

from threading import Event, Thread
from typing import Any

import triton_python_backend_utils as pb_utils

from hytrec_export.serving.request_metrics import FAMILIES, RequestMetrics, Series

PERIOD_S = 1.0
"""A message to the server takes some 20 microseconds *(seen)*; a request would pay for several."""


class Publisher:
    """A thread that hands on what was added up; does nothing where the server publishes no metrics.

    Args:
        metrics: what to publish.
        period_s: between two publications.
    """

    def __init__(self, metrics: RequestMetrics, *, period_s: float = PERIOD_S) -> None:
        self._metrics = metrics
        self._period_s = period_s
        self._families: dict[str, Any] = {}
        self._series: dict[Series, Any] = {}
        self._over = Event()
        try:
            for family in FAMILIES:
                kinds = pb_utils.MetricFamily
                kind = kinds.HISTOGRAM if family.buckets else kinds.COUNTER
                self._families[family.name] = kinds(name=family.name, description=family.help, kind=kind)
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_warn(f"no metrics of requests are published: {error}")
            self._families.clear()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Publish the rest and end."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._period_s):
            self.publish()
        self.publish()

    def publish(self) -> None:
        """Hand on what was added up since the last time."""
        amounts = self._metrics.take()
        if not self._families:
            return
        try:
            for series, count in amounts.counts.items():
                self._metric(series).increment(count)
            for series, values in amounts.observed.items():
                metric = self._metric(series)
                for value in values:
                    metric.observe(value)
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_warn(f"metrics of requests were not published: {error}")

    def _metric(self, series: Series) -> Any:
        if series not in self._series:
            family, values = series
            labels = dict(zip(family.labels, map(str, values), strict=True))
            options = {"buckets": list(family.buckets)} if family.buckets else {}
            self._series[series] = self._families[family.name].Metric(labels=labels, **options)
        return self._series[series]
