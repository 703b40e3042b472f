"""Run the topology and write its report.

    python -m hytrec_benchmarks.topology --seconds 300 --output reports/topology.json

Two models with weights set to remember are built of MovieLens-100K. Exit status 1 when a bound does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hytrec.run_folder import write_json
from hytrec_benchmarks.fixtures.bounds import misses
from hytrec_benchmarks.fixtures.context import Context, Log, Weights, data_folder
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.topology.running import run_topology


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description="Serve from three servers over a Redis Cluster, and disturb them.")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("reports/topology.json"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hytrec-topology-") as name:
        folder = Path(name)
        contexts = [Context(folder=folder / part, data=data_folder(), seed=seed) for seed, part in enumerate("ab")]
        for context in contexts:
            context.folder.mkdir()
        old, new = (context.repository(Log.RATINGS, Weights.REMEMBERING) for context in contexts)
        figures = run_topology(old, new, folder / "running", seconds=options.seconds, seed=options.seed)
    rounded = {key: round(value, 4) for key, value in figures.items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, rounded | {"seed": options.seed} | describe_run())
    failures = misses(figures)
    for line in failures:
        say(line)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
