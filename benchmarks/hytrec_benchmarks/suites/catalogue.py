"""Catalogues of a million items with random tables: disk, memory of the server and of the build, and its time.

Not among the suites that run by default: `python -m hytrec_benchmarks.measure --only catalogue`, half an hour.
"""

from __future__ import annotations

import shutil
from statistics import median

from hytrec.config import ModelConfig
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context
from hytrec_benchmarks.fixtures.large_catalogues import (
    build_apart,
    bytes_on_disk,
    save_random_run,
    serve_a_while,
)
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
    try:
        say(f"random tables of {items:,} items of width {config.width}, {config.neighbors} neighbors each")
        tables = save_random_run(folder / "run", config, seed=context.seed)
        built = build_apart(folder / "run", folder / "repository", "--samples", "synthetic")
        say(f"built in {built.seconds:.0f} s, {built.anonymous_bytes / 1e9:.2f} GB; serving")
        served = serve_a_while(folder / "repository", folder, items=items)
        return {
            "table_mb": round(tables / 1e6, 1),
            "repository_over_table": bytes_on_disk(folder / "repository") / tables,
            "server_anon_mb": round(served.anonymous_bytes / 1e6, 1),
            "server_anon_over_table": served.anonymous_bytes / tables,
            "build_seconds": round(built.seconds, 1),
            "build_core_seconds": round(built.core_seconds, 1),
            "build_anon_over_table": built.anonymous_bytes / tables,
            "recommend_p50_ms": median(served.recommend_ms),
        }
    finally:
        shutil.rmtree(folder)
