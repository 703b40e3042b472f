"""Engines of a trained run for several GPUs in both precisions, by TensorRT for RTX, which needs no GPU to build.

The run's item table is widened to the size of a real catalogue first. Nothing is run: that takes a GPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

import torch

from hytrec.modeling.model import HyTRec, build_model
from hytrec.run_folder import Run, load_run
from hytrec.vector_signature import VECTOR_GRAPHS
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context, Log, settings_of
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.suites.precision import exported
from hytrec_export.exporters.mixed_precision import to_mixed_precision
from hytrec_export.exporters.tensorrt import EngineRecord, build_engines
from hytrec_export.options import BuildOptions, EngineOptions, Lowering, Precision, Target
from hytrec_export.plan import resolve_plan

ITEMS = 200_000
QUICK_ITEMS = 2_000
CAPABILITIES = ("sm80", "sm86", "sm89", "sm120")
SHORT_NAMES = {Precision.FLOAT32: "fp32", Precision.MIXED: "fp16"}
MAX_PARALLEL = 4
"""Builds at once; each takes a gigabyte."""


def measure(context: Context) -> dict[str, Figure]:
    """Build all engines, as many at once as there are cores; each is checked as in any build."""
    capabilities = CAPABILITIES[:1] if context.quick else CAPABILITIES
    run = widened(load_run(context.run(Log.EDITS)), items=QUICK_ITEMS if context.quick else ITEMS)
    graphs = {}
    for precision in SHORT_NAMES:
        say(f"exporting {precision.value} graphs of {run.config.items:,} items")
        graphs[precision] = exported(context, run, Lowering.CHUNKED, precision, VECTOR_GRAPHS)
    parallel = min(MAX_PARALLEL, len(os.sched_getaffinity(0)))
    say(f"building for {', '.join(capabilities)}, {parallel} at once")
    start = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        built = list(
            pool.map(lambda wanted: build(context, run, graphs[wanted[0]], *wanted), product(SHORT_NAMES, capabilities))
        )
    seconds = time.monotonic() - start
    records = [record for engines in built for record in engines.values()]
    return {
        "engines_build_seconds": round(seconds, 1),
        **figures_of(records),
        **over_tables(built, run.model),
    }


def widened(run: Run, *, items: int) -> Run:
    """The run with more items than it was trained on: the rows of the others are as they were before training."""
    config = replace(run.config, items=max(items, run.config.items))
    torch.manual_seed(0)
    model = build_model(config).eval().requires_grad_(requires_grad=False)
    weights = model.state_dict()
    for name, trained in run.model.state_dict().items():
        place = tuple(slice(size) for size in trained.shape)
        weights[name][place] = trained
    return replace(run, config=config, model=model)


def build(
    context: Context, run: Run, graphs: Mapping[str, Path], precision: Precision, capability: str
) -> dict[str, EngineRecord]:
    """Records of one run's engines; their files are removed, together they take two gigabytes."""
    folder = context.new_folder(f"engines-{capability}-{precision.value}")
    options = BuildOptions(
        run=run.path,
        target=Target.TENSORRT_RTX,
        fp16=precision is Precision.MIXED,
        engine=EngineOptions(compute_capability=capability),
    )
    records = build_engines(
        graphs, folder, plan=resolve_plan(options), settings=settings_of(run), timing_cache=folder / "timing.cache"
    )
    for name, record in records.items():
        record.path.unlink()
        say(f"{name} {precision.value} {capability}: {record.size_bytes / 1e6:.1f} MB, {record.seconds:.0f} s")
    return records


def over_tables(built: Sequence[Mapping[str, EngineRecord]], model: HyTRec) -> dict[str, Figure]:
    """What the three engines of a build take over one item table and one table of neighbors; medians over GPUs."""
    figures: dict[str, Figure] = {}
    for precision, short in SHORT_NAMES.items():
        weighed = model if precision is Precision.FLOAT32 else to_mixed_precision(model)
        neighbors = weighed.neighbors
        tables = [weighed.item_table.weight, *([] if neighbors is None else [neighbors.ids, neighbors.weights])]
        held = sum(table.nbytes for table in tables)
        sizes = [
            sum(record.size_bytes for record in engines.values())
            for engines in built
            if all(record.precision is precision for record in engines.values())
        ]
        figures[f"engines_over_tables_{short}"] = median(sizes) / held
    return figures


def figures_of(records: list[EngineRecord]) -> dict[str, Figure]:
    """How many there are, how large and how long in the making."""
    sizes = {
        short: sum(record.size_bytes for record in records if record.precision is precision)
        for precision, short in SHORT_NAMES.items()
    }
    figures: dict[str, Figure] = {
        "engines_built": len(records),
        "fp16_engine_size_ratio": sizes["fp16"] / sizes["fp32"],
    }
    for (precision, short), name in product(SHORT_NAMES.items(), sorted({record.path.stem for record in records})):
        chosen = [record for record in records if record.precision is precision and record.path.stem == name]
        figures[f"{name}_{short}_engine_mb"] = round(median(record.size_bytes for record in chosen) / 1e6, 1)
        figures[f"{name}_{short}_engine_seconds"] = median(record.seconds for record in chosen)
    return figures
