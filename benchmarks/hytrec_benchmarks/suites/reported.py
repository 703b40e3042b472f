"""Figures of measurements that take hours or need another revision: as the reports beside the code say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hytrec.errors import DataError
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context

__all__ = ["REPORTS", "measure"]

REPORTS = {
    "quality.json": "make quality",
    "planted.json": "python -m hytrec_benchmarks.planted",
    "before_history.json": "python -m hytrec_benchmarks.before_history --data FOLDER",
}
"""Files of the reports folder, and what writes them."""
FOLDER = Path(__file__).resolve().parents[3] / "reports"
_OF_THE_RUN = ("machine_", "version_")


def measure(context: Context) -> dict[str, Figure]:
    """The numbers of the reports; nothing is measured here, and every report says on what and when it was.

    Raises:
        DataError: a report is not there.
    """
    del context
    figures: dict[str, Figure] = {}
    for name, command in REPORTS.items():
        file = FOLDER / name
        if not file.is_file():
            raise DataError(f"{file} is not there; make it with: {command}")
        figures |= numbers(json.loads(file.read_text()))
    return figures


def numbers(report: Mapping[str, Any]) -> dict[str, Figure]:
    """Those at the top of a report, without what describes the machine."""
    return {
        name: value
        for name, value in report.items()
        if isinstance(value, int | float) and not name.startswith(_OF_THE_RUN)
    }
