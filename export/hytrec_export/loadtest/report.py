"""The folder that a load test leaves: every figure as JSON and CSV, the plots, the page, the command lines."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.figures import flat
from hytrec_export.loadtest.page import page
from hytrec_export.loadtest.plots import draw_plots
from hytrec_export.repository.manifest import git_revision, versions

REPORT_FILE = "report.json"
FIGURES_FILE = "figures.csv"
PAGE_FILE = "report.html"
COMMANDS_FILE = "commands.txt"
INPUTS_FOLDER = "inputs"
FORMAT_VERSION = 1
MADE_BY = "hytrec-export loadtest"
_CPU_FILE = Path("/proc/cpuinfo")


def describe_machine(*, cpu_file: Path = _CPU_FILE) -> dict[str, str | int | float]:
    """What the client ran on, and with a local server what that ran on too."""
    try:
        lines = [line for line in cpu_file.read_text().splitlines() if line.startswith("model name")]
    except OSError:
        lines = []
    return {
        "cpu": lines[0].partition(":")[2].strip() if lines else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
    }


def make_report(
    test: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    problems: Sequence[str],
    *,
    command: str,
    machine: Mapping[str, Any],
    peers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything in one value that JSON can hold.

    Args:
        peers: contenders by length of history, where they were asked for.
    """
    report = {
        "format_version": FORMAT_VERSION,
        "made_by": MADE_BY,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": dict(machine),
        "versions": versions(),
        "git_revision": git_revision(),
        "test": dict(test),
        "points": list(points),
        "problems": list(problems),
    }
    return report if peers is None else report | {"peers": dict(peers)}


def write_report(folder: Path, report: Mapping[str, Any], *, commands: Sequence[str]) -> None:
    """Write every file of a report into a folder.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
    note = "# which ran, in this order; --keep-inputs keeps the input files:"
    (folder / COMMANDS_FILE).write_text("\n".join([str(report["command"]), note, *commands]) + "\n")
    with (folder / FIGURES_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("scenario", "load_kind", "load", "figure", "value"))
        writer.writerows((report["test"]["scenario"], *row) for row in _rows(report))
    plots = draw_plots(folder, report)
    (folder / PAGE_FILE).write_text(page(report, {plot.stem: plot.read_bytes() for plot in plots}), encoding="utf-8")


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """Load kind, load, figure and value; a length of history is a kind of load."""
    for point in report["points"]:
        key = (point["load"]["kind"], point["load"]["value"])
        yield from ((*key, name, value) for name, value in flat(point).items() if not name.startswith("load."))
    peers = report.get("peers", {})
    for point in peers.get("points", ()):
        own = flat({name: value for name, value in point.items() if name not in ("contender", "history")})
        yield from (("history", point["history"], f"{point['contender']}.{name}", value) for name, value in own.items())
    for row in peers.get("ratios", ()):
        for name in ("ratio", "low", "high"):
            yield "history", row["history"], f"hytrec over {row['over']}.{name}", row[name]
    for row in peers.get("scores", ()):
        yield "history", row["history"], "largest_score_difference", row["largest_difference"]


def read_report(folder: Path) -> dict[str, Any]:
    """What `write_report` wrote.

    Raises:
        LoadTestError: the folder holds no report, or one of another format.
    """
    path = folder / REPORT_FILE
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        version, maker = report["format_version"], report["made_by"]
    except FileNotFoundError:
        raise LoadTestError(f"{path} is missing; give a folder that hytrec-export loadtest wrote") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadTestError(
            f"{path} is damaged ({type(error).__name__}: {error}); give a folder that hytrec-export loadtest wrote"
        ) from error
    if maker != MADE_BY or version != FORMAT_VERSION:
        raise LoadTestError(
            f"{path} is of format {maker!r}, version {version}; this hytrec-export reads {MADE_BY!r}, "
            f"version {FORMAT_VERSION}: run the load test again"
        )
    return report


def check_output(output: Path) -> None:
    """Refuse to replace what no load test wrote.

    Raises:
        LoadTestError: there is something else.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise LoadTestError(f"{output} is not a folder; choose another --output")
    if any(output.iterdir()):
        try:
            read_report(output)
        except LoadTestError as error:
            raise LoadTestError(
                f"{output} is not replaced, no load test wrote it ({error}); choose another --output"
            ) from error
