"""`python -m hytrec_benchmarks.peers` as a process of its own, for its malloc, and what is read of its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hytrec_benchmarks.peers.figures import SCORE_BOUND
from hytrec_benchmarks.peers.options import CONCURRENCY, HYTREC, IN_PROCESS
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.options import NOT_CLEAN
from hytrec_export.loadtest.report import REPORT_FILE
from hytrec_export.server.installation import MALLOC


def command_of(
    endpoint: str,
    repository: Path,
    *,
    events: Path,
    lengths: Iterable[int],
    peers: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line, but for where the report goes.

    Args:
        events: the log that traffic is made from.
        lengths: of the users' histories.
        peers: endpoints by name.
    """
    return [
        *(sys.executable, "-m", "hytrec_benchmarks.peers"),
        *("--scenario=rank", f"--events={events}", f"--concurrency={CONCURRENCY}"),
        f"--history-lengths={','.join(map(str, lengths))}",
        *(f"--endpoint={endpoint}", f"--repository={repository}", f"--in-process={repository}"),
        *(f"--peer={name}={address}" for name, address in (peers or {}).items()),
    ]


def environment() -> dict[str, str]:
    """Of a comparison: the graphs in its process get the malloc settings that the server has."""
    return MALLOC | os.environ


def run_program(command: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Run a comparison; its summary goes to stderr.

    Args:
        folder: of the report.

    Returns:
        The report's points.

    Raises:
        LoadTestError: it left no report.
    """
    command = [*command, f"--output={folder}"]
    status = subprocess.run(command, check=False, stdout=sys.stderr, env=environment()).returncode
    if status not in {0, NOT_CLEAN}:
        raise LoadTestError(f"hytrec_benchmarks.peers ended with {status}; its message is above")
    try:
        points: list[dict[str, Any]] = json.loads((folder / REPORT_FILE).read_bytes())["points"]
    except (OSError, ValueError, KeyError) as error:
        raise LoadTestError(f"{folder / REPORT_FILE} cannot be read ({error!r}); see the message above") from error
    return points


def over_in_process(command: Sequence[str], folder: Path) -> float:
    """Run a comparison of one length: throughput over that of the same graphs without a server.

    Args:
        folder: of the report.

    Raises:
        LoadTestError: there is no such figure, or the two do not give the same scores.
    """
    (point,) = (point for point in run_program(command, folder) if point["competitor"] == HYTREC)
    ratio, difference = point["over"][IN_PROCESS]["ratio"], point["scores"]["largest_difference"]
    if ratio is None or difference is None:
        raise LoadTestError("a window of hytrec_benchmarks.peers failed; its message is above")
    if difference > SCORE_BOUND:
        raise LoadTestError(
            f"the scores of the server and of its graphs differ by {difference:.3g}, at most {SCORE_BOUND:g} is "
            "allowed; run: hytrec-export verify REPOSITORY"
        )
    return float(ratio)
