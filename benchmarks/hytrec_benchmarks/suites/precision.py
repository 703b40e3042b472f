"""What half precision changes: scores, lists and metrics on a whole real log, drift over 10,000 appends, headroom.

The drift of a trained run is that of the chunked graphs which TensorRT is given; that of the weights set to remember,
which forget nothing, of the fused ones: the same float16 products, about twice as fast for single events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from hytrec.contract import Model
from hytrec.data.histories import History
from hytrec.run_folder import Run, load_run
from hytrec.signature import GRAPHS
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import LONG, LONG_EVENTS, QUICK_EVENTS, Context, Log, Weights, settings_of
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.reference_models import Feeder, torch_chain
from hytrec_export.exporters.fp16_weights import convert_to_fp16_weights
from hytrec_export.exporters.mixed_precision import HalfLinear, HalfProduct, narrow_limit, to_mixed_precision
from hytrec_export.exporters.onnx_graph import export_graphs
from hytrec_export.exporters.table_precision import TABLES, convert_tables
from hytrec_export.exporters.tensor_files import SUFFIX
from hytrec_export.options import Lowering, Precision, TablePrecision
from hytrec_export.verification.quality.bounds import AUC, HR, NDCG, Drift, QualityBounds, QualityReport
from hytrec_export.verification.quality.drift import measure_drift
from hytrec_export.verification.quality.gate import check_quality
from hytrec_export.verification.quality.ranking import opened, query_of, seen_rows, times

EARLY_APPENDS = 500
"""The drift after these shows whether it grows."""
QUICK_USERS = 20
NO_BOUNDS = QualityBounds(score=1e9, overlap=0, metric=1e9, batched=1e9)
"""The figures are wanted whatever they are; their bounds are in `fixtures.bounds`."""

Graphs = Mapping[str, Path]


def measure(context: Context) -> dict[str, Figure]:
    """Figures of the mixed graphs (fp16_...), of float16 weights and of int8 tables on the CPU."""
    run = load_run(context.run(Log.RATINGS))
    histories = list(context.histories(Log.RATINGS, run.vocabulary))
    if context.quick:
        histories = histories[:QUICK_USERS]
    figures: dict[str, Figure] = {}
    forms: dict[str, tuple[Lowering, Callable[[Graphs], Graphs]]] = {
        "fp16": (Lowering.CHUNKED, lambda _: exported(context, run, Lowering.CHUNKED, Precision.MIXED)),
        "fp16_weights": (Lowering.FUSED, lambda float32: halved(context, run, float32)),
        "int8_tables": (Lowering.FUSED, lambda float32: with_tables(context, float32, TablePrecision.INT8)),
    }
    for prefix, (lowering, made) in forms.items():
        say(f"{prefix}, {lowering.value}, against float32 on {len(histories)} histories")
        float32 = exported(context, run, lowering, Precision.FLOAT32)
        half = made(float32)
        quality = check_quality(float32, half, histories, settings=settings_of(run), bounds=NO_BOUNDS)
        figures |= quality_figures(prefix, quality)
        figures[f"{prefix}_file_size_ratio"] = size_of(half) / size_of(float32)
    return figures | _long_figures(context)


def quality_figures(prefix: str, quality: QualityReport) -> dict[str, Figure]:
    """The gate's findings as figures."""
    changes = {name: change.relative for name, change in quality.metrics.items()}
    return {
        f"{prefix}_score_max_abs_diff": quality.score,
        f"{prefix}_score_max_diff_over_spread": quality.score / quality.spread,
        f"{prefix}_top10_overlap": quality.overlap,
        f"{prefix}_hr500_relative_change": changes.get(HR, 0.0),
        f"{prefix}_ndcg500_relative_change": changes.get(NDCG, 0.0),
        f"{prefix}_auc_relative_change": changes.get(AUC, 0.0),
        f"{prefix}_evaluated_users": quality.evaluated,
        f"{prefix}_batched_max_abs_diff": quality.batched["half"],
    }


def exported(
    context: Context, run: Run, lowering: Lowering, precision: Precision, graphs: Sequence[Model] = GRAPHS
) -> dict[str, Path]:
    """Graphs of a run, in a new folder."""
    folder = context.new_folder(f"graphs-{lowering.value}-{precision.value}")
    settings = settings_of(run)
    return export_graphs(run.model, folder, settings=settings, lowering=lowering, precision=precision, graphs=graphs)


def halved(context: Context, run: Run, float32: Graphs) -> Graphs:
    """Graphs with their weights and tables in float16, as `--fp16` makes them on a CPU."""
    folder = context.new_folder("graphs-halved") / "half"
    weights = convert_to_fp16_weights(float32, folder, narrow=narrow_limit(run.model), keep=TABLES)
    return with_tables(context, weights, TablePrecision.FLOAT16)


def with_tables(context: Context, graphs: Graphs, precision: TablePrecision) -> Graphs:
    """Graphs with their tables in fewer bits, as `--table-precision` makes them."""
    return convert_tables(graphs, context.new_folder("graphs-tables") / precision.value, precision)


def size_of(graphs: Graphs) -> int:
    """Bytes of graphs, and of the tensor files beside them."""
    shared = {file for path in graphs.values() for file in path.parent.glob(f"*{SUFFIX}")}
    return sum(path.stat().st_size for path in (*graphs.values(), *shared))


def _long_figures(context: Context) -> dict[str, Figure]:
    """Drift and headroom of the long histories, by both sets of weights."""
    appends = QUICK_EVENTS - 1 if context.quick else LONG
    figures: dict[str, Figure] = {}
    for weights, suffix, lowering in (
        (Weights.TRAINED, "", Lowering.CHUNKED),
        (Weights.REMEMBERING, "_remembering", Lowering.FUSED),
    ):
        run = load_run(context.run(Log.EDITS, weights))
        history = context.long_histories(run.vocabulary)[0]
        say(f"{appends:,} single-event appends, {weights.value} weights, {lowering.value}")
        float32 = exported(context, run, Lowering.FUSED, Precision.FLOAT32)
        half = exported(context, run, lowering, Precision.MIXED)
        for count in sorted({min(EARLY_APPENDS, appends), appends}):
            drift = drift_of(run, float32, half, history, count)
            figures[f"fp16_drift_{count}_appends{suffix}"] = drift.state
            figures[f"fp16_drift_{count}_appends_score{suffix}"] = drift.score
        figures[f"fp16_largest_number{suffix}"] = largest_number(run, history)
    return figures


def drift_of(run: Run, float32: Graphs, half: Graphs, history: History, appends: int) -> Drift:
    """Of a history's first events, one per request."""
    settings = settings_of(run)
    with ExitStack() as stack:
        graph_sets = [opened(graphs, settings, stack) for graphs in (float32, half)]
        return measure_drift(graph_sets[0], graph_sets[1], query_of(history, items=run.config.items), appends=appends)


def largest_number(run: Run, history: History) -> float:
    """Largest absolute value that enters or leaves a float16 product while a history is encoded and queried.

    float16 ends at 65,504.
    """
    mixed = to_mixed_precision(run.model)
    largest = 0.0

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, *(float(tensor.abs().max()) for tensor in (*inputs, output)))

    for module in mixed.modules():
        if isinstance(module, HalfLinear | HalfProduct):
            module.register_forward_hook(note)
    sizes = run.config.sizes()
    query = query_of(history, items=run.config.items)
    with torch_chain(mixed, sizes=sizes) as chain:
        users = Feeder(chain=chain, sizes=sizes, max_events=LONG_EVENTS).feed(query.history)
        rows = chain.retrieve(users, times([query]), seen_rows([query]))
        chain.rerank(users, times([query]), rows)
    return largest
