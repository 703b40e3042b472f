"""A report in a few lines, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hytrec_export.loadtest.comparison import comparison_rows
from hytrec_export.loadtest.page import load_rows, ratio_table
from hytrec_export.loadtest.report import PAGE_FILE

_HEAD = ("load", "status", "answers/s", "±", "p50 ms", "p90", "p95", "p99", "requests", "errors")


def summary(report: Mapping[str, Any], output: Path) -> str:
    """Table of the loads, ratios to others, what is wrong, the comparison, and where the rest is."""
    lines = table(_HEAD, load_rows(report))
    if "peers" in report:
        head, *rows = ratio_table(report)
        lines += ["", "throughput over that of others (least to largest of a round)", *table(head, rows), ""]
    noted = [point for point in report["points"] if point["status"] == "saturated"]
    told = [f"{point['load']['value']:g}: {note}" for point in noted for note in point["notes"]]
    lines += [*told, *(f"not clean: {problem}" for problem in report["problems"])]
    if comparison := report.get("comparison"):
        head = ("load", "figure", "before", "now", "ratio", "band", "")
        lines += ["", f"against {comparison['old']}", *table(head, comparison_rows(comparison))]
        lines += [*comparison["notes"], *(f"worse: {line}" for line in comparison["regressions"])]
    return "\n".join([*lines, f"report  {output / PAGE_FILE}"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their longest cell; the first to the left, the others to the right."""
    everything = [head, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in everything
    ]
