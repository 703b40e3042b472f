"""Catalogues of a million items with random tables: disk, memory of the server and of the build, and its time.

Not among the suites that run by default: `python -m hytrec_benchmarks.measure --only catalogue`, half an hour. One
size alone:

    python -m hytrec_benchmarks.suites.catalogue --items 10000000 --width 64 --output reports/catalogue_10m.json

which takes some four times the tables' 12.8 GB of disk.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from hytrec.config import ModelConfig
from hytrec.run_folder import write_json
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context
from hytrec_benchmarks.fixtures.large_catalogues import (
    bytes_on_disk,
    run_apart,
    save_random_run,
    serve_a_while,
)
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.progress import say

ITEMS = {"100k": 100_000, "1m": 1_000_000}
QUICK_ITEMS = {"100k": 2_000, "1m": 20_000}


def measure(context: Context) -> dict[str, Figure]:
    """Build and serve catalogues of two sizes, one after the other."""
    figures: dict[str, Figure] = {}
    for name, items in (QUICK_ITEMS if context.quick else ITEMS).items():
        found = measure_one(context, ModelConfig(items=items))
        figures |= {f"{figure}_{name}": value for figure, value in found.items()}
    for figure in ("build_seconds", "build_core_seconds"):
        figures[f"{figure}_ratio_1m_over_100k"] = figures[f"{figure}_1m"] / figures[f"{figure}_100k"]
    return figures


def measure_one(context: Context, config: ModelConfig) -> dict[str, Figure]:
    """Figures of a catalogue; everything made for it is removed."""
    items, folder = config.items, context.new_folder(f"catalogue-{config.items}")
    repository = folder / "repository"
    try:
        say(f"random tables of {items:,} items of width {config.width}, {config.neighbors} neighbors each")
        tables = save_random_run(folder / "run", config, seed=context.seed)
        built = run_apart("build", str(folder / "run"), "--output", str(repository), "--samples", "synthetic")
        shutil.rmtree(folder / "run")
        say(f"built in {built.seconds:.0f} s, {built.anonymous_bytes / 1e9:.2f} GB; verifying")
        verified = run_apart("verify", str(repository))
        say(f"verified in {verified.seconds:.0f} s, {verified.anonymous_bytes / 1e9:.2f} GB; serving")
        served = serve_a_while(repository, folder, items=items)
        return {
            "table_mb": round(tables / 1e6, 1),
            "repository_over_table": bytes_on_disk(repository) / tables,
            "server_anon_mb": round(served.anonymous_bytes / 1e6, 1),
            "server_anon_over_table": served.anonymous_bytes / tables,
            "build_seconds": round(built.seconds, 1),
            "build_core_seconds": round(built.core_seconds, 1),
            "build_anon_over_table": built.anonymous_bytes / tables,
            "verify_seconds": round(verified.seconds, 1),
            "verify_anon_over_table": verified.anonymous_bytes / tables,
            "recommend_p50_ms": median(served.recommend_ms),
        }
    finally:
        shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one size, and write its figures."""
    parser = argparse.ArgumentParser(description="Build, verify and serve a catalogue with random tables.")
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where there is room for it; a temporary folder by default")
    parser.add_argument("--output", type=Path, default=Path("reports/catalogue_10m.json"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hytrec-catalogue-", dir=options.folder) as name:
        context = Context(folder=Path(name), data=Path(name))
        figures = measure_one(context, ModelConfig(items=options.items, width=options.width))
    sizes = {"items": options.items, "width": options.width}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, sizes | {key: round(value, 4) for key, value in figures.items()} | describe_run())


if __name__ == "__main__":
    main()
