"""A report in a few lines, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hytrec_export.loadtest.comparison import COMPARISON_HEAD, comparison_rows
from hytrec_export.loadtest.report import PAGE_FILE
from hytrec_export.loadtest.rows import LOAD_HEAD, load_rows


def summary(report: Mapping[str, Any], output: Path) -> str:
    """Table of the loads, further tables, problems, the comparison, and the path of the page."""
    lines = aligned(LOAD_HEAD, load_rows(report))
    for table in report["tables"]:
        lines += ["", table["title"], *aligned(table["head"], table["rows"]), ""]
    saturated = [point for point in report["points"] if point["status"] == "saturated"]
    lines += [f"{point['label']}: {note}" for point in saturated for note in point["notes"]]
    lines += [f"not clean: {problem}" for problem in report["problems"]]
    if comparison := report.get("comparison"):
        lines += ["", f"against {comparison['old']}", *aligned(COMPARISON_HEAD, comparison_rows(comparison))]
        lines += [*comparison["notes"], *(f"worse: {line}" for line in comparison["regressions"])]
    return "\n".join([*lines, f"report  {output / PAGE_FILE}"])


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as their longest cell; the first left-aligned, the others right-aligned."""
    everything = [head, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in everything
    ]
