"""Throughput of a served HyTRec over that of its peers, by history length."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context, Log
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.peers.options import HYTREC, IN_PROCESS, LENGTHS
from hytrec_benchmarks.peers.program import command_of, run_program
from hytrec_benchmarks.peers.servers import start_all
from hytrec_export.loadtest.perf_analyzer import find_perf_analyzer

SHRINK = 40
"""Lengths are divided by it in quick mode."""


def measure(context: Context) -> dict[str, Figure]:
    """Throughput of each competitor at every history length, and ours over it; one that failed is left out.

    Raises:
        LoadTestError: perf_analyzer is not installed, or the comparison failed.
    """
    find_perf_analyzer(None)  # before minutes of training
    nominal = {length // (SHRINK if context.quick else 1): length for length in LENGTHS}
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hytrec-peers-")))
        endpoint, ours, peers = start_all(context, state, stack)
        command = command_of(endpoint, ours, events=context.log_file(Log.EDITS), lengths=nominal, peers=peers)
        command += [f"--seed={context.seed}", *(["--windows=1", "--window-seconds=0.2"] if context.quick else [])]
        say("peers: comparing")
        points = run_program(command, context.new_folder("peers"))
    return figures_of(points, nominal)


def figures_of(points: Iterable[Mapping[str, Any]], nominal: Mapping[int, int]) -> dict[str, Figure]:
    """Figures by name.

    Args:
        points: of a comparison's report.
        nominal: length of history that a figure is named after, by the length measured.
    """
    found: dict[str, Figure | None] = {}
    for point in points:
        length, name = nominal[point["history"]], point["competitor"]
        found[f"throughput_{'inprocess' if name == IN_PROCESS else name}_{length}"] = point.get("throughput_per_s")
        if name == HYTREC:
            found[f"peers_score_max_abs_diff_{length}"] = point["scores"]["largest_difference"]
        for other, row in point.get("over", {}).items():
            over = f"over_inprocess_{length}" if other == IN_PROCESS else f"throughput_over_{other}_{length}"
            found[over] = row["ratio"]
    return {name: value for name, value in found.items() if value is not None}
