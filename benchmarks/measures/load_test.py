"""`hytrec-export loadtest` as the measures run it: rankings by perf_analyzer, users of given lengths of history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.peer_figures import SCORE_BOUND
from hytrec_export.loadtest_command import NOT_CLEAN
from hytrec_export.server.installation import MALLOC

PROGRAM = Path(sys.executable).with_name("hytrec-export")


def command_of(
    endpoint: str,
    repository: Path,
    *,
    events: Path,
    concurrency: int,
    lengths: Sequence[int],
    peers: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line, but for where the report goes.

    Args:
        events: the log that traffic is made from.
        lengths: of the users' histories.
        peers: endpoints by name.
    """
    return [
        f"{PROGRAM}",
        *("loadtest", "--scenario=rank", f"--events={events}", f"--concurrency={concurrency}"),
        f"--history-lengths={','.join(map(str, lengths))}",
        *(f"--endpoint={endpoint}", f"--repository={repository}", f"--in-process={repository}"),
        *(f"--peer={name}={address}" for name, address in (peers or {}).items()),
    ]


def environment() -> dict[str, str]:
    """What a load test runs with: the graphs in its process get the malloc that the server has."""
    return MALLOC | os.environ


def over_in_process(command: Sequence[str], folder: Path) -> float:
    """Run a load test of one length: throughput over that of the same graphs without a server.

    What it prints goes to stderr.

    Args:
        folder: of the report.

    Raises:
        LoadTestError: there is no such figure, or the two do not give the same scores.
    """
    command = [*command, f"--output={folder}"]
    status = subprocess.run(command, check=False, stdout=sys.stderr, env=environment()).returncode
    if status not in {0, NOT_CLEAN}:
        raise LoadTestError(f"hytrec-export loadtest ended with {status}; what it said stands above")
    found = json.loads((folder / "report.json").read_text())["peers"]
    (row,), (scores,) = found["ratios"], found["scores"]
    if None in (row["ratio"], scores["largest_difference"]):
        raise LoadTestError("a window of hytrec-export loadtest failed; what it said stands above")
    if scores["largest_difference"] > SCORE_BOUND:
        raise LoadTestError(
            f"the scores of the server and of its graphs differ by {scores['largest_difference']:.3g}, at most "
            f"{SCORE_BOUND:g} is allowed; run: hytrec-export verify REPOSITORY"
        )
    return float(row["ratio"])
