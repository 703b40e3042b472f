"""Runs the checks within a time: each in a process of its own, results written as they come."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hytrec_benchmarks.gpu.bundle import Bundle
from hytrec_benchmarks.gpu.checks import CHECKS, Planned, check_named
from hytrec_benchmarks.gpu.device import Device, describe
from hytrec_benchmarks.gpu.results import read_lines, write_line

LEAST_S = 5.0
"""A check is not begun with less than this left."""
KILL_S = 10.0
"""Kept back of the whole time: starting Python and ending a check that ran over its limit."""
_STDERR_CHARACTERS = 8_000


def run_checks(
    bundle: Path,
    output: Path,
    *,
    device: str,
    minutes: float,
    quick: bool,
    checks: Sequence[Planned] = CHECKS,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Run all checks that fit into `minutes`; every record written, in order.

    Raises:
        BundleError: `bundle` is no folder of `prepare`.
    """
    end = time.monotonic() + 60 * minutes
    described = Bundle(bundle).description
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w") as file:
        header = describe(device) | {"quick": quick, "minutes": minutes}
        source = {name: described[name] for name in ("source", "fingerprint", "prepared", "revision")}
        write_line(file, {"started": datetime.now(UTC).isoformat(timespec="seconds"), "bundle": source, **header})
    for check in checks:
        left_s = end - time.monotonic()
        outcome = _run_one(
            check, bundle, output, device=device, quick=quick, limit_s=min(check.limit_s, left_s - KILL_S)
        )
        with output.open("a") as file:
            write_line(file, {"check": check.name, **outcome})
        say(f"{check.name}: {outcome['outcome']} after {outcome['seconds']:.1f} s")
    return read_lines(output)


def run_check(name: str, bundle: Path, output: Path, *, device: str, quick: bool) -> None:
    """One check, in this process: its results are added to `output`."""
    check = check_named(name).load()
    with output.open("a") as file:
        for result in check(Bundle(bundle), Device(device), quick=quick):
            write_line(file, {"check": name, **result.line()})


def _run_one(check: Planned, bundle: Path, output: Path, *, device: str, quick: bool, limit_s: float) -> dict[str, Any]:
    if limit_s < LEAST_S:
        return {"outcome": "left out: the time is over", "seconds": 0.0}
    command = [sys.executable, "-m", "hytrec_benchmarks.gpu", "check", check.name, str(bundle), str(output)]
    command += ["--device", device, *(["--quick"] if quick else [])]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": f"ended at its limit of {limit_s:.0f} s", "seconds": time.monotonic() - start}
    outcome = "done" if done.returncode == 0 else f"failed with {done.returncode}"
    said = {"stderr": done.stderr[-_STDERR_CHARACTERS:]} if done.returncode else {}
    return {"outcome": outcome, "seconds": time.monotonic() - start} | said
