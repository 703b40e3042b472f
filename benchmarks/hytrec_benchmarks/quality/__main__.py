"""`make quality`: train every variant on every log, measure the baselines, and write the report.

    python -m hytrec_benchmarks.quality
    python -m hytrec_benchmarks.quality --only ml100k_time ml100k_ties --output runs/protocols

Writes quality.json, quality.md and a chart for every log into the folder; the page shows what
`hytrec_benchmarks.quality.served` found, too. Trainings go side by side, one torch thread
each: at these sizes that uses two cores better than one training with two threads. A run that is stopped goes on where
it was. Exit status 1 when a bound does not hold.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hytrec.config import Branches
from hytrec.data.split import Part, evaluation, training
from hytrec.run_folder import write_json, write_text
from hytrec_benchmarks.fixtures.bounds import misses
from hytrec_benchmarks.fixtures.context import data_folder
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.quality.charts import draw_chart
from hytrec_benchmarks.quality.measuring import Measured, measure_baselines, measure_job
from hytrec_benchmarks.quality.plan import LOGS, VARIANTS, VARIATIONS, Job, QualityLog, jobs, preset, read_log
from hytrec_benchmarks.quality.report import SERVED_FILE, markdown_page
from hytrec_benchmarks.quality.summary import figures_of, summary_of

ROOT = Path(__file__).resolve().parents[3]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; the exit status."""
    options = _parser().parse_args(arguments)
    planned = [
        job
        for job in jobs(seeds=options.seeds, branch_seeds=options.branch_seeds, variation_seeds=options.variation_seeds)
        if job.log.key in options.only
    ]
    planned_logs = list(dict.fromkeys(job.log for job in planned))
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawned, torch.set_num_threads, (1,)) as pool:
        baselines = pool.map(partial(measure_baselines, data=options.data, runs=options.runs), planned_logs)
        training_of = partial(measure_job, data=options.data, runs=options.runs, epochs=options.epochs)
        measured = {}
        for job, found in zip(planned, pool.map(training_of, planned), strict=True):
            minutes, cpu = found.notes["minutes"], found.notes["cpu_minutes"]
            say(f"{job.folder}: {minutes} minutes ({cpu} of a core), validation {found.notes['validation']}")
            measured[job] = found
        rivals = dict(zip(planned_logs, baselines, strict=True))
    logs = {log.name: _summary(log, measured, rivals[log], options.data) for log in planned_logs}
    spent = {
        f"{kind}_minutes": round(sum(found.notes[name] for found in (*measured.values(), *rivals.values())), 1)
        for kind, name in (("process", "minutes"), ("core", "cpu_minutes"))
    }
    figures = {name: value for log in planned_logs for name, value in figures_of(log.key, logs[log.name]).items()}
    report: dict[str, Any] = {
        **figures,
        **spent,
        "command": _command(options.only),
        "preset": preset(),
        "logs": logs,
        **describe_run(),
    }
    served = options.output / SERVED_FILE
    write_report(options.output, report | ({"served": json.loads(served.read_text())} if served.exists() else {}))
    print((options.output / "quality.md").read_text())  # noqa: T201
    failures = misses(figures)
    for failure in failures:
        say(failure)
    return 1 if failures else 0


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """The three kinds of files, of which the page shows the others."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, log in report["logs"].items():
        draw_chart(folder / log["chart"], name, log)
    write_json(folder / "quality.json", report)
    write_text(folder / "quality.md", markdown_page(report))


def _summary(log: QualityLog, measured: dict[Job, Measured], baselines: Measured, data: Path) -> dict[str, Any]:
    histories, vocabulary = read_log(data, log)
    test = evaluation(histories, Part.TEST, items=len(vocabulary.item_keys), split=log.split)
    runs: dict[Branches, list[Measured]] = {
        branches: [own for job, own in measured.items() if (job.log, job.branches) == (log, branches)]
        for branches in VARIANTS
    }
    trained = {branches: own for branches, own in runs.items() if own}
    report = ROOT / "reports" / "baselines.json"
    learned = json.loads(report.read_text()).get(log.name) if report.exists() else None
    known = training(histories, log.split)
    summary = summary_of(trained, baselines, test=test, known=known, learned=learned)
    return summary | {"chart": f"quality_{log.key}.png", "protocol": log.protocol}


def _command(keys: Sequence[str]) -> str:
    """What makes the report again."""
    if {*keys} == {log.key for log in (*LOGS, *VARIATIONS)}:
        return "make quality"
    return f"python -m hytrec_benchmarks.quality --only {' '.join(keys)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Recommendation quality on two logs, with ablations and baselines.")
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of the event logs")
    parser.add_argument("--output", type=Path, default=ROOT / "reports", help="folder of the report")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality", help="folder of the run folders")
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the whole model, and of it without encoder")
    parser.add_argument("--branch-seeds", type=int, default=1, help="trainings of each branch alone")
    parser.add_argument("--variation-seeds", type=int, default=1, help="trainings with another split or order of ties")
    keys = [log.key for log in (*LOGS, *VARIATIONS)]
    parser.add_argument("--only", nargs="+", choices=keys, default=keys, metavar="LOG", help=f"of {', '.join(keys)}")
    parser.add_argument("--epochs", type=int, help="instead of the preset's, to try the machinery")
    return parser


if __name__ == "__main__":
    sys.exit(main())
