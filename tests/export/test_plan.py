from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hytrec_export import plan as targets
from hytrec_export.errors import OptionError
from hytrec_export.options import (
    BuildOptions,
    Device,
    EngineOptions,
    Execution,
    Lowering,
    Precision,
    Retrieval,
    StateKind,
    TablePrecision,
    Target,
)
from hytrec_export.plan import has_tensorrt, resolve_plan, resolve_retrieval
from hytrec_export.settings import Limits

FLOAT32, FLOAT16, INT8 = TablePrecision
SM86 = EngineOptions(compute_capability="sm86")


def options(**values: Any) -> BuildOptions:
    return BuildOptions(run=Path("run"), **values)


@pytest.mark.parametrize(
    ("gpus", "tensorrt", "target", "reason"),
    [
        (0, False, Target.EMBEDDED, "no GPU was found"),
        (0, True, Target.EMBEDDED, "no GPU was found"),
        (
            2,
            False,
            Target.EMBEDDED,
            "a GPU was found but not TensorRT; pip install 'hytrec-export[tensorrt]' brings it",
        ),
        (1, True, Target.TENSORRT, "TensorRT and a GPU were found"),
    ],
)
def test_the_target_follows_from_what_is_here(gpus: int, tensorrt: bool, target: Target, reason: str) -> None:
    plan = resolve_plan(options(), gpus=lambda: gpus, tensorrt=lambda: tensorrt)
    assert (plan.target, plan.reason) == (target, reason)


@pytest.mark.parametrize("installed", [True, False])
def test_tensorrt_is_looked_for_without_importing_it(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda name: object() if installed and name == "tensorrt" else None)
    assert has_tensorrt() is installed


@pytest.mark.parametrize(
    ("given", "tables", "precision_class", "narrows"),
    [
        (options(target=Target.EMBEDDED), FLOAT32, "float32", False),
        (options(target=Target.EMBEDDED, fp16=True), FLOAT16, "float16-weights", True),
        (options(target=Target.EMBEDDED, table_precision=INT8), INT8, "float32-int8-tables", True),
        (
            options(target=Target.ONNXRUNTIME, fp16=True, table_precision=INT8),
            INT8,
            "float16-weights-int8-tables",
            True,
        ),
        (
            options(target=Target.EMBEDDED, fp16=True, table_precision=FLOAT32),
            FLOAT32,
            "float16-weights-float32-tables",
            False,
        ),
        (options(target=Target.TENSORRT, fp16=True), FLOAT16, "mixed-float16", False),
        (options(target=Target.TENSORRT, table_precision=FLOAT32), FLOAT32, "float32", False),
    ],
)
def test_tables_go_with_the_precision_if_not_told_otherwise(
    given: BuildOptions, tables: TablePrecision, precision_class: str, narrows: bool
) -> None:
    plan = resolve_plan(given)
    assert (plan.table_precision, plan.precision_class, plan.narrows_tables) == (tables, precision_class, narrows)
    assert plan.to_dict()["table_precision"] == tables.value


@pytest.mark.parametrize(
    ("given", "lowering", "precision", "device"),
    [
        (options(target=Target.EMBEDDED), Lowering.FUSED, Precision.FLOAT32, Device.CPU),
        (options(target=Target.EMBEDDED, fp16=True), Lowering.FUSED, Precision.HALF_WEIGHTS, Device.CPU),
        (options(target=Target.ONNXRUNTIME, fp16=True), Lowering.FUSED, Precision.HALF_WEIGHTS, Device.CPU),
        (
            options(target=Target.ONNXRUNTIME, fp16=True, device=Device.CUDA, lowering=Lowering.CHUNKED),
            Lowering.CHUNKED,
            Precision.MIXED,
            Device.CUDA,
        ),
        (options(target=Target.TENSORRT), Lowering.CHUNKED, Precision.FLOAT32, Device.CUDA),
        (options(target=Target.TENSORRT_RTX, engine=SM86, fp16=True), Lowering.CHUNKED, Precision.MIXED, Device.CUDA),
    ],
)
def test_the_rest_follows_from_the_target(
    given: BuildOptions, lowering: Lowering, precision: Precision, device: Device
) -> None:
    plan = resolve_plan(given)
    assert (plan.target, plan.lowering, plan.precision, plan.device) == (given.target, lowering, precision, device)
    assert plan.reason == "as asked for"


@pytest.mark.parametrize(
    ("given", "items", "retrieval"),
    [
        (options(target=Target.EMBEDDED), 99_999, Retrieval.EXACT),
        (options(target=Target.EMBEDDED), 100_000, Retrieval.APPROXIMATE),
        (options(target=Target.ONNXRUNTIME), 1_000_000, Retrieval.APPROXIMATE),
        (options(target=Target.EMBEDDED, retrieval=Retrieval.EXACT), 1_000_000, Retrieval.EXACT),
        (options(target=Target.EMBEDDED, retrieval=Retrieval.APPROXIMATE), 10, Retrieval.APPROXIMATE),
        (options(target=Target.ONNXRUNTIME, device=Device.CUDA), 1_000_000, Retrieval.EXACT),
        (options(target=Target.TENSORRT), 1_000_000, Retrieval.EXACT),
    ],
)
def test_large_catalogues_are_scanned_on_the_cpu(given: BuildOptions, items: int, retrieval: Retrieval) -> None:
    plan = resolve_retrieval(resolve_plan(given), items=items)
    assert plan.retrieval is retrieval
    assert ("min_recall" in plan.to_dict()) == (retrieval is Retrieval.APPROXIMATE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            options(target=Target.TENSORRT, lowering=Lowering.FUSED),
            "lowering fused is an operator of onnxruntime and target tensorrt has none like it; leave --lowering out",
        ),
        (
            options(target=Target.TENSORRT, retrieval=Retrieval.APPROXIMATE),
            (
                "retrieval approximate is for the CPU: on a GPU the product with the whole item table is faster; "
                "leave --retrieval out"
            ),
        ),
        (
            options(target=Target.EMBEDDED, device=Device.CUDA),
            "device cuda is for target onnxruntime; target embedded needs no --device",
        ),
        (
            options(target=Target.EMBEDDED, state=StateKind.SEQUENCE),
            (
                "state sequence needs Triton's onnxruntime or tensorrt backend, and target embedded has neither: "
                "Triton's python backend never stores a state; choose --target onnxruntime, or --state store"
            ),
        ),
        (
            options(target=Target.TENSORRT, fp16=True, table_precision=TablePrecision.INT8),
            (
                "table precision int8 is for graphs that run on a CPU, and those of target tensorrt run on a GPU, with "
                "tables in float32, and with --fp16 in float16; leave --table-precision out"
            ),
        ),
        (
            options(target=Target.TENSORRT_RTX),
            "target tensorrt-rtx builds for a GPU that need not be here; name it: --compute-capability sm86",
        ),
        (
            options(target=Target.TENSORRT, engine=SM86),
            "compute capability sm86 is for target tensorrt-rtx; target tensorrt builds for the GPU it runs on",
        ),
        (
            options(target=Target.EMBEDDED, engine=SM86),
            "compute capability sm86 is for target tensorrt-rtx; target embedded compiles nothing",
        ),
        (
            options(target=Target.EMBEDDED, engine=EngineOptions(version_compatible=True)),
            "compatible engines are asked for, and target embedded has no engines; leave them out",
        ),
        (
            options(target=Target.ONNXRUNTIME, engine=EngineOptions(timing_cache=Path("cache"))),
            "timing cache cache is given, and target onnxruntime compiles nothing; leave --timing-cache out",
        ),
        (
            options(target=Target.EMBEDDED, intra_op_threads=2),
            (
                "2 intra-op threads are for target onnxruntime on the CPU, and target embedded runs another way; "
                "leave --intra-op-threads out"
            ),
        ),
        (
            options(target=Target.ONNXRUNTIME, device=Device.CUDA, intra_op_threads=2),
            (
                "2 intra-op threads are for target onnxruntime on the CPU, and target onnxruntime runs on CUDA; "
                "leave --intra-op-threads out"
            ),
        ),
        (
            options(target=Target.EMBEDDED, execution=Execution.ENSEMBLE, fused_max_batch=8),
            (
                "fused max batch 8 is for --execution fused, and this build has a model for every step; "
                "give --max-batch instead"
            ),
        ),
    ],
)
def test_what_does_not_go_together_is_refused(given: BuildOptions, message: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        resolve_plan(given)


def test_the_manifest_gets_every_choice_but_the_paths() -> None:
    given = options(target=Target.EMBEDDED, lowering=Lowering.CHUNKED, limits=Limits(max_events=7))
    assert resolve_plan(given).to_dict() == {
        "target": "embedded",
        "reason": "as asked for",
        "lowering": "chunked",
        "precision": "float32",
        "device": "cpu",
        "state": "store",
        "execution": "fused",
        "reranker": "full",
        "retrieval": "auto",
        "table_precision": "float32",
        "samples": "real",
        "atol": 1e-4,
        "max_events": 7,
        "max_candidates": 1024,
        "max_excluded": 4096,
        "max_batch": 64,
        "fused_max_batch": 4,
    }
    assert (
        "fused_max_batch" not in resolve_plan(options(target=Target.EMBEDDED, execution=Execution.ENSEMBLE)).to_dict()
    )
    assert resolve_plan(options(target=Target.ONNXRUNTIME)).to_dict()["intra_op_threads"] == 1
    engine = resolve_plan(options(target=Target.TENSORRT_RTX, engine=SM86)).to_dict()
    assert engine["compute_capability"] == "sm86"
    assert engine["hardware_compatibility"] is False


@pytest.mark.parametrize("target", [target for target in Target if target is not Target.AUTO])
def test_one_model_takes_all_steps_where_all_are_python(target: Target) -> None:
    engine = SM86 if target is Target.TENSORRT_RTX else EngineOptions()
    embedded = target is Target.EMBEDDED
    plan = resolve_plan(options(target=target, engine=engine))
    assert plan.execution is (Execution.FUSED if embedded else Execution.ENSEMBLE)
    assert plan.to_dict()["execution"] == plan.execution
    assert (
        resolve_plan(options(target=target, engine=engine, execution=Execution.ENSEMBLE)).execution
        is Execution.ENSEMBLE
    )
    if not embedded:
        message = (
            "execution fused is for target embedded, whose steps are all Python; the graphs of target "
            f"{target.value} are models of another Triton backend, so leave --execution out"
        )
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            resolve_plan(options(target=target, engine=engine, execution=Execution.FUSED))


@pytest.mark.parametrize(
    ("target", "given", "items", "reserved"),
    [
        (Target.EMBEDDED, None, 40, 0),
        (Target.EMBEDDED, None, 30_000, 300),
        (Target.EMBEDDED, None, 10_000_000, 10_000),
        (Target.EMBEDDED, 7, 10_000_000, 7),
        (Target.EMBEDDED, 0, 10_000_000, 0),
        (Target.ONNXRUNTIME, None, 30_000, 0),
    ],
)
def test_a_share_of_the_catalog_is_reserved_where_it_can_change(
    target: Target, given: int | None, items: int, reserved: int
) -> None:
    options = BuildOptions(run=Path("run"), target=target, reserve_items=given)
    plan = resolve_retrieval(resolve_plan(options, gpus=lambda: 0), items=items)
    assert plan.reserve_items == reserved
    assert plan.to_dict().get("reserve_items", 0) == reserved


def test_no_rows_are_reserved_for_tables_that_cannot_change() -> None:
    with pytest.raises(OptionError) as told:
        resolve_plan(BuildOptions(run=Path("run"), target=Target.ONNXRUNTIME, reserve_items=5), gpus=lambda: 0)
    assert str(told.value) == (
        "5 reserved items are for target embedded, and target onnxruntime cannot change its tables while it serves; "
        "leave --reserve-items out, and train and build again for new items"
    )


def test_reserved_items_are_no_fewer_than_none() -> None:
    with pytest.raises(OptionError, match="reserve items is -1; it must be at least 0, and 0 reserves none"):
        BuildOptions(run=Path("run"), reserve_items=-1)
