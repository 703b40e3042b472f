"""A load test from its options to the folder that it leaves."""

from __future__ import annotations

from typing import Any

from hytrec_export.loadtest.comparison import compare
from hytrec_export.loadtest.options import LoadTestOptions
from hytrec_export.loadtest.report import (
    INPUTS_FOLDER,
    check_output,
    describe_machine,
    make_report,
    read_report,
    write_report,
)
from hytrec_export.loadtest.sweep import run_load_test
from hytrec_export.optional import require
from hytrec_export.progress import Progress, silent
from hytrec_export.repository.atomic_swap import NEW, put_in_place, staging_folder


def run_and_report(options: LoadTestOptions, *, command: str, progress: Progress = silent) -> dict[str, Any]:
    """Test, compare, write; the report's folder appears whole or not at all.

    Args:
        command: that was typed, for the report.

    Raises:
        LoadTestError: the test cannot start, or the old report cannot be compared with.
        BuildError: the folder cannot be written.
    """
    check_output(options.output)
    old = read_report(options.compare) if options.compare else None
    require("matplotlib", extra="loadtest")
    machine = describe_machine()
    with staging_folder(options.output) as staging:
        folder = staging / NEW
        folder.mkdir()
        inputs = folder / INPUTS_FOLDER
        if options.keep_inputs:
            inputs.mkdir()
        result = run_load_test(options, inputs=inputs if options.keep_inputs else None, progress=progress)
        report = make_report(
            result.test, result.points, result.problems, command=command, machine=machine, peers=result.peers
        )
        if old is not None:
            report["comparison"] = compare(old, report, old_name=str(options.compare), noise=options.noise)
        # The folder is about to be renamed.
        commands = [line.replace(str(folder), str(options.output)) for line in result.commands]
        write_report(folder, report, commands=commands)
        put_in_place(staging, options.output)
    return report
