"""Recommendation quality on MovieLens-100K and Amazon Beauty: `make quality`, 3 seeds, at most an hour.

Writes reports/quality.json and reports/quality.md. Two training runs go side by side, one torch thread each: at these
sizes that uses two cores better than one run with two threads.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from hytrec.data.histories import read_histories
from hytrec.evaluation.baselines import measure_baselines
from hytrec.evaluation.tables import SHOWN_METRICS
from hytrec_benchmarks.fixtures.context import data_folder

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
TO_BEAT = ("most-popular", "item-knn")
"""By NDCG@10. item-knn-recent, item-kNN with time decay, is reported beside them: the strongest baseline."""

COMMON = {"width": 64, "tadn_layers": 3, "softmax_layers": 1, "window": 32, "rerank_candidates": 32}
DATASETS: dict[str, dict[str, Any]] = {
    "MovieLens-100K": {
        "file": "ml_100k.parquet",
        "options": COMMON
        | {
            "dropout": 0.3,
            "batch_events": 2048,
            "positions": 8,
            "max_history": 150,
            "learning_rate": 5e-3,
            "average_decay": 0.97,
            "epochs": 22,
        },
    },
    "Amazon Beauty": {
        "file": "amazon_beauty.parquet",
        "options": COMMON
        | {
            "dropout": 0.4,
            "batch_events": 1024,
            "positions": 6,
            "max_history": 50,
            "learning_rate": 4e-3,
            "average_decay": 0.99,
            "negatives": 1024,
            "epochs": 16,
        },
    },
}


def main() -> None:
    """Run every job, two at a time, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of the event logs")
    parser.add_argument("--output", type=Path, default=ROOT / "reports", help="folder of the report")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality", help="folder of the run folders")
    parser.add_argument("--workers", type=int, default=2, help="training runs side by side")
    arguments = parser.parse_args()
    start = time.monotonic()
    jobs = [(name, seed) for seed in SEEDS for name in DATASETS]
    with ThreadPoolExecutor(arguments.workers) as pool:
        runs = list(pool.map(lambda job: _train(job[0], job[1], arguments.data, arguments.runs), jobs))
    with ProcessPoolExecutor(arguments.workers) as processes:
        baselines = list(processes.map(partial(_baselines, data=arguments.data), DATASETS))
    datasets = {
        name: _summary(name, [run for (of, _), run in zip(jobs, runs, strict=True) if of == name], measured)
        for name, measured in zip(DATASETS, baselines, strict=True)
    }
    report: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "seeds": len(SEEDS),
        "datasets": datasets,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "quality.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.output / "quality.md").write_text(markdown_page(report))
    print((arguments.output / "quality.md").read_text())  # noqa: T201
    if not all(dataset["beats_baselines"] for dataset in datasets.values()):
        sys.exit("a baseline is not beaten: see the table")


def _train(name: str, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train one seed in a process of its own: the test metrics, and minutes."""
    run = runs / f"{name.lower().replace(' ', '-')}-{seed}"
    options = [f"--{key.replace('_', '-')}={value}" for key, value in DATASETS[name]["options"].items()]
    arguments = ["train", str(data / DATASETS[name]["file"]), f"--output={run}", f"--seed={seed}", *options]
    start = time.monotonic()
    command = [sys.executable, "-c", "from hytrec.cli import main; main()", *arguments, "--threads=1", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    minutes = (time.monotonic() - start) / 60
    print(f"{name}, seed {seed}: {minutes:.1f} minutes", file=sys.stderr)  # noqa: T201
    return {"minutes": minutes, "metrics": json.loads(done.stdout)["metrics"]["test"]}


def _baselines(name: str, data: Path) -> dict[str, dict[str, float]]:
    """Test metrics of the baselines, tuned on the validation part."""
    histories, vocabulary = read_histories(data / DATASETS[name]["file"])
    return measure_baselines(histories, items=len(vocabulary.item_keys))


def _summary(name: str, runs: list[dict[str, Any]], baselines: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Means and standard errors over seeds."""
    models = {
        model: {
            metric: _mean_and_error([run["metrics"][model][metric] for run in runs])
            for metric in SHOWN_METRICS
            if metric in runs[0]["metrics"][model]
        }
        for model in runs[0]["metrics"]
    }
    beaten = [
        min(model["ndcg@10"]["mean"] for model in models.values()) > baselines[baseline]["ndcg@10"]
        for baseline in TO_BEAT
    ]
    return {
        "options": DATASETS[name]["options"],
        "minutes": [round(run["minutes"], 1) for run in runs],
        "models": models,
        "baselines": baselines,
        "beats_baselines": all(beaten),
    }


def _mean_and_error(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "standard_error": statistics.stdev(values) / math.sqrt(len(values))}


def markdown_page(report: dict[str, Any]) -> str:
    """The page `reports/quality.md` of the figures in `reports/quality.json`."""
    lines = [
        "# Recommendation quality",
        "",
        "Generated by `make quality`. Protocol: leave-one-out, the last event of every history is the test, the last",
        "but one the validation, on which every choice is made (early stopping, weight of the reranker, parameters of",
        "item-kNN); full catalog, seen items removed.",
        f"Mean ± standard error over {report['seeds']} seeds; {report['minutes']} minutes, two runs side by side.",
        "item-knn-recent is item-kNN with time decay (a half-life), tuned too.",
    ]
    for name, dataset in report["datasets"].items():
        options = ", ".join(f"{key} {value}" for key, value in dataset["options"].items())
        minutes = ", ".join(map(str, dataset["minutes"]))
        lines += ["", f"## {name}", "", f"Options: {options}. Minutes of the seeds: {minutes}.", ""]
        lines += ["| model | " + " | ".join(metric.upper() for metric in SHOWN_METRICS) + " |"]
        lines += ["|---" * (len(SHOWN_METRICS) + 1) + "|"]
        rows = {f"HyTRec, {model}": values for model, values in dataset["models"].items()} | dataset["baselines"]
        for model, values in rows.items():
            cells = " | ".join(_cell(values.get(metric)) for metric in SHOWN_METRICS)
            lines.append(f"| {model} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(value: dict[str, float] | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{value['mean']:.4f} ± {value['standard_error']:.4f}"
    return f"{value:.4f}"


if __name__ == "__main__":
    main()
