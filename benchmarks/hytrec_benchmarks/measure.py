"""Measure what the project promises, on real data, and write the figures to one flat JSON object.

    python -m hytrec_benchmarks.measure --output reports/measured.json

Progress goes to stderr, the table to stdout. Exit status 1 when a bound does not hold or a suite fails.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from hytrec.errors import HytrecError
from hytrec.run_folder import write_json
from hytrec_benchmarks.fixtures.bounds import BOUNDS, Bound, Figure, misses
from hytrec_benchmarks.fixtures.context import Context, Log, data_folder
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.progress import say

SUITES = (
    "reading",
    "streaming",
    "sensitivity",
    "speed",
    "lowering",
    "engines",
    "served",
    "history",
    "shared_store",
    "durability",
    "attacks",
    "lanes",
    "precision",
    "load",
    "peers",
    "reported",
)
"""Modules of `suites`, in the order they run: `measure(context)` of each gives its figures."""

ON_REQUEST = ("catalogue", "retrieval")
"""Those that only `--only` runs: they take gigabytes."""

Measure = Callable[[Context], Mapping[str, Figure]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suites asked for; the exit status."""
    options = _parser().parse_args(arguments)
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hytrec-measure-")))
        context = Context(
            folder=folder,
            data=data_folder(),
            runs={Log.RATINGS: options.run} if options.run else {},
            seed=options.seed,
            quick=options.quick,
        )
        try:
            for log in Log:
                context.log_file(log)
            folder.mkdir(parents=True, exist_ok=True)
            options.output.parent.mkdir(parents=True, exist_ok=True)
        except (HytrecError, OSError) as error:
            say(f"{error}")
            return 1
        machine = describe_run()
        figures, failures = run_measures(context, {name: suite(name) for name in options.only or SUITES})
    write_json(options.output, figures | {"quick": options.quick, "seed": options.seed} | machine)
    # Sizes of quick mode are too small for the bounds to mean anything.
    bounds = {} if options.quick else BOUNDS
    print_table(figures, bounds)
    failures += misses(figures, bounds)
    for failure in failures:
        say(failure)
    return 1 if failures else 0


def run_measures(context: Context, measures: Mapping[str, Measure]) -> tuple[dict[str, Figure], list[str]]:
    """All figures, and one line for every suite that failed; the others run all the same."""
    figures: dict[str, Figure] = {}
    failures = []
    for name, measure in measures.items():
        say(f"== {name}")
        start = time.monotonic()
        try:
            figures |= measure(context)
        except HytrecError as error:
            failures.append(f"{name} could not be measured: {error}")
        except Exception as error:  # noqa: BLE001 - an hour of other suites must not be lost to it
            traceback.print_exc()
            failures.append(f"{name} could not be measured: {type(error).__name__}, see above")
        figures[f"{name}_seconds"] = round(time.monotonic() - start, 1)
    return figures, failures


def print_table(figures: Mapping[str, Figure], bounds: Mapping[str, Bound]) -> None:
    """Every figure with its bound, on stdout."""
    table = Table(Column("figure", no_wrap=True), "value", "bound", "")
    for name, value in figures.items():
        bound = bounds.get(name)
        verdict = "" if bound is None else "holds" if bound.holds(value) else "DOES NOT HOLD"
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value), str(bound or ""), verdict)
    Console(highlight=False).print(table)


def suite(name: str) -> Measure:
    """The function that measures a suite."""
    measure: Measure = importlib.import_module(f"hytrec_benchmarks.suites.{name}").measure
    return measure


_ONLY = f"of {', '.join(SUITES)}, and of {', '.join(ON_REQUEST)}, which run only when named"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure what the project promises, on real data.")
    parser.add_argument("--output", type=Path, default=Path("reports/measured.json"), help="where the figures go")
    parser.add_argument("--only", nargs="+", choices=SUITES + ON_REQUEST, metavar="NAME", help=_ONLY)
    parser.add_argument("--run", type=Path, help="a run trained on MovieLens-100K, instead of a short training")
    parser.add_argument("--folder", type=Path, help="keep runs and repositories here, and use those that are there")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (0)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the machinery; no bound is checked")
    return parser


if __name__ == "__main__":
    sys.exit(main())
