"""`hytrec-export loadtest` as the measures run it: rankings by perf_analyzer, users of given lengths of history."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hytrec_export.errors import ServerError

PROGRAM = Path(sys.executable).with_name("hytrec-export")
WITH_PROBLEMS = 3
"""Exit status where there is a report that tells of problems, as windows that differ."""


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


def over_in_process(command: Sequence[str], folder: Path) -> float:
    """Run a load test of one length: throughput over that of the same graphs without a server.

    Args:
        folder: of the report.

    Raises:
        ServerError: there is no such figure; why, the load test has said on stderr.
    """
    done = subprocess.run([*command, f"--output={folder}"], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode in {0, WITH_PROBLEMS}:
        (row,) = json.loads((folder / "report.json").read_text())["peers"]["ratios"]
        if row["ratio"] is not None:
            return float(row["ratio"])
    raise ServerError(
        f"hytrec-export loadtest ended with {done.returncode} and no ratio; see above, install perf_analyzer with: "
        f"make perf-analyzer, or see {folder}"
    )
