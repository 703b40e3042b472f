"""Throughput of a served HyTRec over that of its peers, by history length."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context, Log
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.peers.options import CONCURRENCY, HYTREC, IN_PROCESS, LENGTHS
from hytrec_benchmarks.peers.program import Point, command_of, run_program
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
        command = command_of(
            endpoint,
            ours,
            events=context.log_file(Log.EDITS),
            concurrency=CONCURRENCY,
            lengths=list(nominal),
            peers=peers,
        )
        command += [f"--seed={context.seed}", *(["--windows=1", "--window-seconds=0.2"] if context.quick else [])]
        say("peers: comparing")
        points = run_program(command, context.new_folder("peers")).points
    return figures_of(points, nominal)


def figures_of(points: Iterable[Point], nominal: dict[int, int]) -> dict[str, Figure]:
    """Figures by name.

    Args:
        nominal: length of history that a figure is named after, by the length measured.
    """
    figures: dict[str, Figure] = {}
    for point in points:
        length, name = nominal[point.history], "inprocess" if point.competitor == IN_PROCESS else point.competitor
        if point.throughput_per_s is not None:
            figures[f"throughput_{name}_{length}"] = point.throughput_per_s
        if point.competitor == HYTREC and point.scores and point.scores.largest_difference is not None:
            figures[f"peers_score_max_abs_diff_{length}"] = point.scores.largest_difference
        for other, row in point.over.items():
            if row.ratio is not None:
                named = f"over_inprocess_{length}" if other == IN_PROCESS else f"throughput_over_{other}_{length}"
                figures[named] = row.ratio
    return figures
