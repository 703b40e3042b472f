"""The folder that a load test leaves: every figure as JSON and CSV, the plots, the page, the command lines."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.comparison import Figures
from hytrec_export.loadtest.figures import flat
from hytrec_export.loadtest.plots import SWEEP_PLOTS, Plot, draw_plots
from hytrec_export.loadtest.tables import PAGE_FILE, html_page
from hytrec_export.repository.manifest import git_revision, versions

REPORT_FILE = "report.json"
FIGURES_FILE = "figures.csv"
COMMANDS_FILE = "commands.txt"
INPUTS_FOLDER = "inputs"
FORMAT_VERSION = 2
MADE_BY = "hytrec-export loadtest"
_CPU_FILE = Path("/proc/cpuinfo")


@dataclass(kw_only=True, eq=False)
class Result:
    """What a load test found.

    Args:
        test: how it was made: scenario, server, log, model; `amount` says in words how much was sent.
        points: figures of each load, with a `label`.
        compared: figures for `--compare`.
        tables: beside that of the points: `title`, `note`, `head` and `rows`.
        plots: to draw of the points, by file name.
        commands: of every run of perf_analyzer, as a shell takes them.
        problems: what keeps the result from being clean, one line each.
    """

    test: dict[str, Any]
    points: list[dict[str, Any]]
    compared: Figures
    tables: list[dict[str, Any]] = field(default_factory=list)
    plots: Mapping[str, Plot] = field(default_factory=lambda: SWEEP_PLOTS)
    commands: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class StoredReport(TypedDict):
    """What is read of an earlier report."""

    format_version: int
    made_by: str
    test: dict[str, Any]
    machine: dict[str, Any]
    compared: Figures


class _Header(msgspec.Struct):
    format_version: int
    made_by: str


def describe_machine(*, cpu_file: Path = _CPU_FILE) -> dict[str, str | int | float]:
    """The client's machine, which is a local server's too."""
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


def make_report(result: Result, *, command: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The report as one value that JSON can hold."""
    return {
        "format_version": FORMAT_VERSION,
        "made_by": MADE_BY,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": dict(machine),
        "versions": versions(),
        "git_revision": git_revision(),
        "test": result.test,
        "points": result.points,
        "compared": result.compared,
        "tables": result.tables,
        "problems": result.problems,
    }


def write_report(
    folder: Path, report: Mapping[str, Any], *, commands: Sequence[str], plots: Mapping[str, Plot] = SWEEP_PLOTS
) -> None:
    """Write every file of a report into a folder.

    Raises:
        MissingPackageError: matplotlib or jinja2 is not installed.
    """
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
    note = "# runs, in this order; --keep-inputs keeps the input files:"
    (folder / COMMANDS_FILE).write_text("\n".join([str(report["command"]), note, *commands]) + "\n")
    with (folder / FIGURES_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("scenario", "load", "figure", "value"))
        writer.writerows(
            (report["test"]["scenario"], point["label"], name, value)
            for point in report["points"]
            for name, value in flat(point).items()
            if name != "label"
        )
    pictures = {path.stem: path.read_bytes() for path in draw_plots(folder, report["points"], plots)}
    (folder / PAGE_FILE).write_text(html_page(report, pictures), encoding="utf-8")


def read_report(folder: Path) -> StoredReport:
    """What `write_report` wrote, as far as a comparison needs it.

    Raises:
        LoadTestError: the folder holds no report, or one of another format.
    """
    path = folder / REPORT_FILE
    try:
        content = path.read_bytes()
        header = msgspec.json.decode(content, type=_Header)
        if (header.made_by, header.format_version) == (MADE_BY, FORMAT_VERSION):
            return msgspec.json.decode(content, type=StoredReport)
    except FileNotFoundError:
        raise LoadTestError(f"{path} is missing; give the folder of a load test's report") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise LoadTestError(f"{path} is damaged ({error}); give the folder of a load test's report") from error
    raise LoadTestError(
        f"{path} is of format {header.made_by!r}, version {header.format_version}; this hytrec-export reads "
        f"{MADE_BY!r}, version {FORMAT_VERSION}: run the load test again"
    )


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
