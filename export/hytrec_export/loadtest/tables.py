"""A report for people: its tables as text, the page from `templates/report.html.j2`, and the terminal's summary."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hytrec_export.loadtest.profile import LATENCIES
from hytrec_export.optional import require

PAGE_FILE = "report.html"
TEMPLATE = "report.html.j2"
Table = list[tuple[str, ...]]
"""Rows of cells, the head first."""


def number(value: float | None, digits: int = 1) -> str:
    """With digit grouping; n/a for an unknown value."""
    return "n/a" if value is None else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """As percent; n/a for an unknown value."""
    return "n/a" if value is None else f"{value:.0%}"


def load_table(report: Mapping[str, Any]) -> Table:
    """One row a point: load, status, throughput and its spread, percentiles, counted requests, errors."""
    latencies = (f"{name}, ms" for name in LATENCIES)
    return [
        ("load", "status", "requests/s", "±", *latencies, "requests", "errors"),
        *(
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
        ),
    ]


def model_table(report: Mapping[str, Any]) -> Table:
    """One row a point and Triton model."""
    return [
        ("load", "model", "requests", "batch", "queue, ms", "compute, ms", "share of time"),
        *(
            (
                point["label"],
                name,
                str(times["requests"]),
                *(number(times[figure], 2) for figure in ("mean_batch", "queue_ms", "compute_ms")),
                share(times["share_of_time"]) if "share_of_time" in times else "",
            )
            for point in report["points"]
            for name, times in point.get("models", {}).items()
        ),
    ]


def resource_table(report: Mapping[str, Any]) -> Table:
    """One row a point."""
    figures = {"cpu_cores_mean": 2, "memory_mib_max": 0, "gpu_percent_mean": 0, "gpu_memory_mib_max": 0}
    return [
        ("load", "cores busy", "memory, MiB (anonymous, maximum)", "GPU, %", "GPU memory, MiB"),
        *(
            (point["label"], *(number(point.get("resources", {}).get(name), n) for name, n in figures.items()))
            for point in report["points"]
        ),
    ]


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """One row a load and figure, with a verdict."""
    units = {"throughput": ", requests/s", **dict.fromkeys(LATENCIES, ", ms")}
    return [
        ("load", "figure", "before", "now", "ratio", "band", ""),
        *(
            (
                row["load"],
                row["figure"] + units.get(row["figure"], ""),
                number(row["before"]),
                number(row["now"]),
                number(row["ratio"], 2),
                f"{row['band']:.0%}",
                "worse" if row["worse"] else "",
            )
            for row in comparison["rows"]
        ),
    ]


def html_page(report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """One self-contained page, pictures embedded.

    Args:
        report: as in report.json.
        pictures: PNG by name.

    Raises:
        MissingPackageError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="loadtest")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hytrec_export.loadtest"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    comparison = report.get("comparison")
    text: str = environment.get_template(TEMPLATE).render(
        title=f"Load test: {report['test']['scenario']}",
        report={"comparison": None, **report},
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
        loads=load_table(report),
        models=model_table(report),
        resources=resource_table(report),
        compared=comparison_table(comparison) if comparison else [],
    )
    return text


def summary(report: Mapping[str, Any], output: Path) -> str:
    """Table of the loads, further tables, problems, the comparison, and the path of the page, for a terminal."""
    lines = aligned(load_table(report))
    for table in report["tables"]:
        lines += ["", table["title"], *aligned([table["head"], *table["rows"]]), ""]
    saturated = [point for point in report["points"] if point["status"] == "saturated"]
    lines += [f"{point['label']}: {note}" for point in saturated for note in point["notes"]]
    lines += [f"not clean: {problem}" for problem in report["problems"]]
    if comparison := report.get("comparison"):
        lines += ["", f"against {comparison['old']}", *aligned(comparison_table(comparison))]
        lines += [*comparison["notes"], *(f"worse: {line}" for line in comparison["regressions"])]
    return "\n".join([*lines, f"report  {output / PAGE_FILE}"])


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as their longest cell; the first left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
