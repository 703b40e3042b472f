"""`make baselines`: tune matrix factorization and SASRec on the validation part, and measure them on the test part.

    python -m hytrec_benchmarks.baselines
    python -m hytrec_benchmarks.baselines --logs beauty --only sasrec

Writes reports/baselines.json: for every log and baseline the settings that were tried with their NDCG@10 on the
validation part, the chosen ones, and test metrics of every seed. Takes hours on two cores; trainings that are done
already (a file each in the folder given by --runs) are not done again, and those of all logs and baselines that are
done are reported. Two commands for different logs may run side by side.
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
from hytrec_benchmarks.quality.plan import LOGS, QualityLog, log_path

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("als", "bpr", "sasrec")
_TUNING_USERS = 4_096
"""Evenly spaced, as for item-kNN."""
_LENGTHS = {"ml100k": 200, "beauty": 50}
"""Events that SASRec reads: about the longest 1% of the histories have more."""
_BATCH_EVENTS = {"ml100k": 4_096, "beauty": 1_024}
"""Of SASRec, about 128 sequences in Beauty, whose users have 8 events on average."""

Fit = Callable[[Any, int], tuple[Learned, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune and measure; the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    for log in LOGS:
        if log.key not in options.logs:
            continue
        histories, vocabulary = read_histories(log_path(options.data, log))
        items = len(vocabulary.item_keys)
        known = training(histories)
        validation, test = (evaluation(histories, part, items=items) for part in (Part.VALIDATION, Part.TEST))
        fits, grids = _fits(known, validation.thinned(_TUNING_USERS), items), _grids(log.key)
        for name in options.only:
            say(f"== {log.name}, {name}")
            once = _Once(fits[name], test, options.runs / f"{log.key}-{name}")
            write_json(_summary_file(options.runs, log, name), _tuned(grids[name], once, seeds=options.seeds))
    found = {
        log.name: {
            name: json.loads(file.read_text())
            for name in NAMES
            if (file := _summary_file(options.runs, log, name)).exists()
        }
        for log in LOGS
    }
    write_json(options.output, found)
    return 0


def _summary_file(runs: Path, log: QualityLog, name: str) -> Path:
    return runs / f"{log.key}-{name}.json"


def _grids(key: str) -> dict[str, list[Any]]:
    sasrec = sasrec_grid(length=_LENGTHS[key], batch_events=_BATCH_EVENTS[key])
    return {"als": list(als_grid()), "bpr": list(bpr_grid()), "sasrec": list(sasrec)}


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


class _Once:
    """Trains and measures what is not done already.

    Args:
        folder: a file for every training.
    """

    def __init__(self, fit: Fit, test: Evaluation, folder: Path) -> None:
        self._fit = fit
        self._test = test
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, settings: Any, seed: int) -> dict[str, Any]:
        """Settings, NDCG@10 on the validation part, test metrics and minutes of a training."""
        name = "-".join(f"{value:g}" for value in (*asdict(settings).values(), seed))
        file = self._folder / f"{name}.json"
        if not file.exists():
            start = time.monotonic()
            model, gain = self._fit(settings, seed)
            found = {
                "settings": asdict(settings),
                "validation_ndcg@10": gain,
                "test": _with_error(rank(model, self._test)),
                "minutes": round((time.monotonic() - start) / 60, 1),
            }
            write_json(file, found)
            say(f"{settings}, seed {seed}: {gain:.4f}")
        trained: dict[str, Any] = json.loads(file.read_text())
        return trained


def _tuned(grid: list[Any], once: _Once, *, seeds: int) -> dict[str, Any]:
    """Try the grid with seed 0, and measure the best settings with every seed."""
    tried = [once(settings, 0) for settings in grid]
    best = max(range(len(grid)), key=lambda place: tried[place]["validation_ndcg@10"])
    chosen = [tried[best], *(once(grid[best], seed) for seed in range(1, seeds))]
    return {
        "settings": tried[best]["settings"],
        "test": [training["test"] for training in chosen],
        "tried": [{name: one[name] for name in ("settings", "validation_ndcg@10")} for one in tried],
        "minutes": round(sum(training["minutes"] for training in (*tried, *chosen[1:])), 1),
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
    keys = [log.key for log in LOGS]
    parser.add_argument("--logs", nargs="+", choices=keys, default=keys, metavar="LOG", help=f"of {', '.join(keys)}")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the chosen settings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
