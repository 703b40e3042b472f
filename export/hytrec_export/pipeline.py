"""The order of the steps of a build."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hytrec.data.feature_rows import ITEM_FEATURES_FILE
from hytrec.run_folder import Run, load_run
from hytrec_export.exporters.fp16_weights import convert_to_fp16_weights
from hytrec_export.exporters.live_tables import make_live, save_tables
from hytrec_export.exporters.mixed_precision import narrow_limit
from hytrec_export.exporters.onnx_graph import export_graphs
from hytrec_export.exporters.preflight import check_packages
from hytrec_export.exporters.reranker_parts import trim_reranker
from hytrec_export.exporters.reserved_rows import reserve_rows
from hytrec_export.exporters.table_precision import TABLES, convert_tables
from hytrec_export.exporters.tensor_files import tensor_files
from hytrec_export.exporters.tensorrt.build import build_engines, check_plan
from hytrec_export.options import BuildOptions, Precision, Retrieval
from hytrec_export.plan import BuildPlan, resolve_plan, resolve_retrieval
from hytrec_export.progress import Progress, silent
from hytrec_export.repository.atomic_swap import NEW, put_in_place, staging_folder
from hytrec_export.repository.manifest import Manifest, describe
from hytrec_export.repository.output_guard import check_output, check_replaceable, keep_own_files
from hytrec_export.repository.writer import write_repository
from hytrec_export.runtime.item_vectors import ITEM_TABLE_FILE
from hytrec_export.settings import LIVE_TABLES_FILE, ServingSettings
from hytrec_export.verification.engines import check_built_engines
from hytrec_export.verification.parity import golden
from hytrec_export.verification.parity.gate import case_count, check_parity
from hytrec_export.verification.quality.bounds import QualityBounds, Subject
from hytrec_export.verification.quality.gate import check_quality
from hytrec_export.verification.recall import check_recall
from hytrec_export.verification.repository import check_built_graphs


def build(options: BuildOptions, *, progress: Progress = silent) -> Manifest:
    """Build a verified model repository from a trained run.

    The old repository at `options.output` is unchanged until the last step, which replaces it atomically.

    Raises:
        HytrecError: a package is missing, the run cannot be read, the output is not ours or cannot be written, a
            graph differs from the signature table, its outputs from PyTorch's or half precision from float32 by too
            much, an engine cannot be built, or its outputs on the GPU here differ.
    """
    plan = resolve_plan(options)
    check_packages(plan)
    output = check_output(options.output)
    run = load_run(options.run)
    plan = resolve_retrieval(plan, items=run.config.items)
    reranker = trim_reranker(run, plan.reranker)
    reserved = plan.reserve_items or 0
    known = run.fingerprint, run.config, run.vocabulary
    settings = ServingSettings.of(*known, plan.limits, plan.precision_class, reserved)
    check_plan(plan, settings)
    with staging_folder(output) as staging:
        run = reserve_rows(run, reserved, staging / "reserved")
        graphs = _export(run, Precision.FLOAT32, plan, settings, staging, progress)
        with progress("comparing with PyTorch", case_count(len(run.samples), settings)) as advance:
            parity = check_parity(
                run.model,
                run.samples,
                graphs,
                settings=settings,
                atol=plan.atol,
                retrieval=plan.retrieval,
                stored=plan.samples,
                on_case=advance,
            )
        files, quality, engines = graphs, None, None
        if plan.precision is Precision.HALF_WEIGHTS:
            folder, narrow = staging / plan.precision.value, narrow_limit(run.model)
            files = convert_to_fp16_weights(graphs, folder, narrow=narrow, keep=TABLES)
        elif plan.precision is Precision.MIXED:
            files = _export(run, plan.precision, plan, settings, staging, progress)
        if plan.narrows_tables:
            files = convert_tables(files, staging / "tables", plan.table_precision)
        if files is not graphs:
            subject = _subject(plan)
            with progress(f"comparing {plan.precision_class} with float32", len(run.samples)) as advance:
                checked = check_quality(graphs, files, run.samples, settings=settings, subject=subject, on_case=advance)
                quality = checked.to_dict() | {"score_bound": QualityBounds().score * checked.spread}
        recall = _recall(run, files, plan, settings, progress)
        files, live = make_live(files, staging / "live") if reserved else (files, None)
        beside = _beside(files, plan)
        if plan.has_engines:
            cache = plan.engine.timing_cache or output.with_name(f"{output.name}.timing-cache")
            records = build_engines(files, staging, plan=plan, settings=settings, timing_cache=cache, progress=progress)
            files = {name: record.path for name, record in records.items()}
            engines = {name: record.to_dict() for name, record in records.items()}
        repository = staging / NEW
        repository.mkdir()
        write_repository(repository, settings=settings, vocabulary=run.vocabulary, files=files, plan=plan, **beside)
        if live is not None:
            _save_catalog(repository, live, run)
        golden.save(parity.golden, repository / golden.FILE_NAME)
        keep_own_files(output, repository)
        manifest = describe(
            repository,
            settings.fingerprint,
            plan.to_dict(),
            parity=parity.report.to_dict(),
            quality=quality,
            engines=engines,
            reranker=reranker,
            retrieval=recall,
        )
        manifest.save(repository)
        check_built_graphs(repository, manifest, progress=progress)
        if engines is not None:
            check_built_engines(repository, manifest, progress=progress)
        put_in_place(staging, output, check_old=partial(check_replaceable, output=output))
    return manifest


def _beside(graphs: Mapping[str, Path], plan: BuildPlan) -> dict[str, Any]:
    """What a repository holds of the files beside its graphs, for `write_repository`."""
    table = next(iter(graphs.values())).with_name(ITEM_TABLE_FILE)
    tensors = {} if plan.has_engines else tensor_files(graphs)
    return {"tensors": tensors, "item_table": table if plan.host_lookup else None}


def _save_catalog(repository: Path, live: Mapping[str, Any], run: Run) -> None:
    """What `hytrec_export.catalog` needs of a build with reserved rows."""
    save_tables(live, repository / LIVE_TABLES_FILE)
    if run.features is not None:
        run.features.save(repository / ITEM_FEATURES_FILE)


def _subject(plan: BuildPlan) -> Subject:
    tables = f"{plan.table_precision.value} tables"
    if plan.precision is Precision.FLOAT32:
        return Subject(name=tables, option="--table-precision")
    if plan.precision_class == plan.precision.value:
        return Subject()
    return Subject(name=f"float16 with {tables}", option="--fp16 and --table-precision")


def _recall(
    run: Run, files: Mapping[str, Path], plan: BuildPlan, settings: ServingSettings, progress: Progress
) -> dict[str, Any] | None:
    """Of approximate retrieval, for the manifest; None where it is exact."""
    if plan.retrieval is not Retrieval.APPROXIMATE:
        return None
    with progress("comparing approximate retrieval with exact", len(run.samples)) as advance:
        report = check_recall(run.model, run.samples, files, settings=settings, bound=plan.min_recall, on_case=advance)
    return report.to_dict()


def _export(
    run: Run, precision: Precision, plan: BuildPlan, settings: ServingSettings, staging: Path, progress: Progress
) -> dict[str, Path]:
    folder = staging / precision.value
    folder.mkdir()
    with progress(f"exporting the graphs in {precision.value}", len(plan.graphs)) as advance:
        return export_graphs(
            run.model,
            folder,
            settings=settings,
            lowering=plan.lowering,
            precision=precision,
            retrieval=plan.retrieval,
            graphs=plan.graphs,
            live=bool(plan.reserve_items),
            on_graph=advance,
        )
