"""A load test from its options to the folder that it leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hytrec_export.loadtest.comparison import compare
from hytrec_export.loadtest.options import LoadTestOptions
from hytrec_export.loadtest.report import (
    INPUTS_FOLDER,
    Result,
    check_output,
    describe_machine,
    make_report,
    read_report,
    write_report,
)
from hytrec_export.loadtest.sweep import run_sweep
from hytrec_export.optional import require
from hytrec_export.progress import Progress, silent
from hytrec_export.repository.atomic_swap import NEW, put_in_place, staging_folder

Options = TypeVar("Options", bound=LoadTestOptions)
Test = Callable[[Options, Path | None, Progress], Result]
"""Options, the folder to keep perf_analyzer's input files in (None keeps none), progress -> result."""


def run_and_report(
    options: Options, *, command: str, progress: Progress = silent, test: Test[Options] = run_sweep
) -> dict[str, Any]:
    """Test, compare, write; the report's folder appears whole or not at all.

    Args:
        command: that was typed, for the report.

    Raises:
        LoadTestError: the test cannot start, or the old report cannot be compared with.
        BuildError: the folder cannot be written.
    """
    check_output(options.output)
    old = read_report(options.compare) if options.compare else None
    for package in ("matplotlib", "jinja2"):
        require(package, extra="loadtest")
    machine = describe_machine()
    with staging_folder(options.output) as staging:
        folder = staging / NEW
        folder.mkdir()
        inputs = folder / INPUTS_FOLDER if options.keep_inputs else None
        if inputs is not None:
            inputs.mkdir()
        result = test(options, inputs, progress)
        report = make_report(result, command=command, machine=machine)
        if old is not None:
            report["comparison"] = compare(old, report, old_name=str(options.compare), noise=options.noise)
        # The folder is about to be renamed.
        commands = [line.replace(str(folder), str(options.output)) for line in result.commands]
        write_report(folder, report, commands=commands, plots=result.plots)
        put_in_place(staging, options.output)
    return report
