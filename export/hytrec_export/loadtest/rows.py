"""Rows of a report's tables, as text: the page and the terminal's summary show the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LATENCIES = ("p50", "p90", "p95", "p99")
LOAD_HEAD = ("load", "status", "requests/s", "±", *(f"{name}, ms" for name in LATENCIES), "requests", "errors")
MODEL_HEAD = ("load", "model", "requests", "batch", "queue, ms", "compute, ms", "share of time")
RESOURCE_HEAD = ("load", "cores busy", "memory, MiB (anonymous, maximum)", "GPU, %", "GPU memory, MiB")
Rows = list[tuple[str, ...]]


def number(value: float | None, digits: int = 1) -> str:
    """With digit grouping; n/a for an unknown value."""
    return "n/a" if value is None else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """As percent; n/a for an unknown value."""
    return "n/a" if value is None else f"{value:.0%}"


def load_rows(report: Mapping[str, Any]) -> Rows:
    """One row a point: load, status, throughput and its spread, percentiles, counted requests, errors."""
    return [
        (
            point["label"],
            point["status"],
            number(point.get("throughput_per_s")),
            share(point.get("spread", {}).get("throughput")),
            *(number(point.get("latency_ms", {}).get(name)) for name in LATENCIES),
            f"{point.get('requests', 0):,}",
            str(point["errors"]),
        )
        for point in report["points"]
    ]


def model_rows(report: Mapping[str, Any]) -> Rows:
    """One row a point and Triton model."""
    return [
        (
            point["label"],
            name,
            str(times["requests"]),
            *(number(times[figure], 2) for figure in ("mean_batch", "queue_ms", "compute_ms")),
            share(times["share_of_time"]) if "share_of_time" in times else "",
        )
        for point in report["points"]
        for name, times in point.get("models", {}).items()
    ]


def resource_rows(report: Mapping[str, Any]) -> Rows:
    """One row a point."""
    figures = {"cpu_cores_mean": 2, "memory_mib_max": 0, "gpu_percent_mean": 0, "gpu_memory_mib_max": 0}
    return [
        (point["label"], *(number(point.get("resources", {}).get(name), digits) for name, digits in figures.items()))
        for point in report["points"]
    ]
