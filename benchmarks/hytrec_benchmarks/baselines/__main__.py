"""`make baselines`: tune matrix factorization and SASRec on the validation part, and measure them on the test part.

    python -m hytrec_benchmarks.baselines

Writes reports/baselines.json: for every log and baseline the settings that were tried with their NDCG@10 on the
validation part, the chosen ones, and test metrics of every seed. Takes hours on two cores; what is done already (in
the folder given by --runs) is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hytrec.data.histories import Histories, read_histories
from hytrec.data.split import Evaluation, Part, evaluation, training
from hytrec.evaluation.metrics import RankingMetrics
from hytrec.run_folder import write_json
from hytrec_benchmarks.baselines.factorization import als_grid, bpr_grid, fit_als, fit_bpr
from hytrec_benchmarks.baselines.sasrec import fit_sasrec, sasrec_grid
from hytrec_benchmarks.baselines.scoring import Learned, rank, validation_gain
from hytrec_benchmarks.fixtures.context import data_folder
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.quality.plan import LOGS, log_path

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("als", "bpr", "sasrec")
_TUNING_USERS = 4_096
"""Evenly spaced, as for item-kNN."""
_LENGTHS = {"ml100k": 200, "beauty": 50}
"""Events that SASRec reads: about the longest 1% of the histories have more."""

Fit = Callable[[Any, int], tuple[Learned, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune and measure; the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    for log in LOGS:
        histories, vocabulary = read_histories(log_path(options.data, log))
        items = len(vocabulary.item_keys)
        known = training(histories)
        validation, test = (evaluation(histories, part, items=items) for part in (Part.VALIDATION, Part.TEST))
        fits, grids = _fits(known, validation.thinned(_TUNING_USERS), items), _grids(log.key)
        for name in options.only:
            file = options.runs / f"{log.key}-{name}.json"
            if not file.exists():
                say(f"== {log.name}, {name}")
                write_json(file, _tuned(grids[name], fits[name], test, seeds=options.seeds))
    found = {
        log.name: {
            name: json.loads(file.read_text())
            for name in NAMES
            if (file := options.runs / f"{log.key}-{name}.json").exists()
        }
        for log in LOGS
    }
    write_json(options.output, found)
    return 0


def _grids(key: str) -> dict[str, list[Any]]:
    return {"als": list(als_grid()), "bpr": list(bpr_grid()), "sasrec": list(sasrec_grid(length=_LENGTHS[key]))}


def _fits(known: Histories, validation: Evaluation, items: int) -> dict[str, Fit]:
    """For every baseline: settings and seed -> the trained one and its NDCG@10 on the validation part."""

    def als(settings: Any, seed: int) -> tuple[Learned, float]:
        trained = fit_als(known, settings, items=items, seed=seed)
        return trained, validation_gain(trained, validation)

    def bpr(settings: Any, seed: int) -> tuple[Learned, float]:
        trained = fit_bpr(known, settings, items=items, seed=seed)
        return trained, validation_gain(trained, validation)

    def sasrec(settings: Any, seed: int) -> tuple[Learned, float]:
        return fit_sasrec(known, validation, settings, items=items, seed=seed, tell=say)

    return {"als": als, "bpr": bpr, "sasrec": sasrec}


def _tuned(grid: list[Any], fit: Fit, test: Evaluation, *, seeds: int) -> dict[str, Any]:
    """Try the grid with seed 0, and measure the best settings with every seed."""
    start = time.monotonic()
    models, gains = [], []
    for settings in grid:
        model, gain = fit(settings, 0)
        models.append(model)
        gains.append(gain)
        say(f"{settings}: {gain:.4f}")
    best = gains.index(max(gains))
    chosen = [models[best], *(fit(grid[best], seed)[0] for seed in range(1, seeds))]
    return {
        "settings": asdict(grid[best]),
        "test": [_with_error(rank(model, test)) for model in chosen],
        "tried": [
            {"settings": asdict(settings), "validation_ndcg@10": gain}
            for settings, gain in zip(grid, gains, strict=True)
        ],
        "minutes": round((time.monotonic() - start) / 60, 1),
    }


def _with_error(metrics: RankingMetrics) -> dict[str, float]:
    """Metrics, and the standard error of NDCG@10 over users."""
    _, gains = metrics.of_users(10)
    return metrics.result() | {"ndcg@10_error": float(gains.std() / gains.size**0.5)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Tune and measure learned baselines on two logs.")
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of the event logs")
    parser.add_argument("--output", type=Path, default=ROOT / "reports" / "baselines.json", help="the report")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "baselines", help="folder of what is done already")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the chosen settings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
