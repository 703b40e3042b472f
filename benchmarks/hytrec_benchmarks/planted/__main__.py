"""Train both branches and the short one alone on planted logs, and write what each knows of the past.

    python -m hytrec_benchmarks.planted

Minutes of one core. Writes reports/planted.json; exit status 1 when a bound does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from hytrec.config import Branches
from hytrec.errors import HytrecError
from hytrec.run_folder import write_json
from hytrec_benchmarks.fixtures.bounds import misses
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.training import EpochLines
from hytrec_benchmarks.planted.log import PlantedLog, planted
from hytrec_benchmarks.planted.measuring import CONFIG, OPTIONS, VARIANTS, Gains, figures_of, train_on

ROOT = Path(__file__).resolve().parents[3]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every seed; the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    start = time.monotonic()
    runs: dict[Branches, list[Gains]] = {branches: [] for branches in VARIANTS}
    half_lives = []
    try:
        log = PlantedLog(distances=tuple(options.distances), users=options.users)
        with tempfile.TemporaryDirectory(prefix="hytrec-planted-") as folder:
            for seed in range(options.seeds):
                own = planted(replace(log, seed=seed))
                for branches, name in VARIANTS.items():
                    say(f"== {name}, seed {seed}: {len(own.histories)} users, {own.histories.times.size:,} events")
                    gains, trained = train_on(
                        own,
                        branches,
                        output=Path(folder) / f"{branches}-{seed}",
                        options=replace(OPTIONS, seed=seed, epochs=options.epochs),
                        observer=EpochLines(),
                    )
                    runs[branches].append(gains)
                    if trained.model.read_long:
                        half_lives.append(np.round(trained.half_lives).tolist())
    except HytrecError as error:
        say(f"{error}")
        return 1
    figures = figures_of(log, runs)
    report = {
        **figures,
        "planted_minutes": round((time.monotonic() - start) / 60, 1),
        "planted_seeds": options.seeds,
        "log": asdict(log),
        "model": {name: value for name, value in CONFIG.to_dict().items() if name not in {"items", "branches"}},
        "training": replace(OPTIONS, epochs=options.epochs).to_dict(),
        "half_lives_of_both": half_lives,
        **describe_run(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, report)
    for name, value in figures.items():
        print(f"{name} {value:.4g}")  # noqa: T201
    failures = misses(figures)
    for failure in failures:
        say(failure)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What a model knows of events thousands of events ago.")
    parser.add_argument("--output", type=Path, default=ROOT / "reports" / "planted.json", help="the report")
    parser.add_argument("--distances", type=int, nargs="+", default=list(PlantedLog.distances), help="events ago")
    parser.add_argument("--users", type=int, default=PlantedLog.users, help="users of each distance")
    parser.add_argument("--seeds", type=int, default=1, help="logs, with a training of each branch on every one")
    parser.add_argument("--epochs", type=int, default=OPTIONS.epochs, help="epochs of a training")
    return parser


if __name__ == "__main__":
    sys.exit(main())
