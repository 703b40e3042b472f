"""Resolves the options of a build into a plan: the target, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

from hytrec.contract import Model
from hytrec.signature import GRAPHS, SESSION_GRAPHS
from hytrec.vector_signature import VECTOR_GRAPHS, VECTOR_SESSION_GRAPHS
from hytrec_export.cuda_driver import gpu_count
from hytrec_export.errors import OptionError
from hytrec_export.options import (
    APPROXIMATE_ITEMS,
    FUSED_MAX_BATCH,
    INTRA_OP_THREADS,
    MAX_RESERVED,
    RESERVED_SHARE,
    BuildOptions,
    Device,
    EngineOptions,
    Execution,
    Lowering,
    Precision,
    RerankerKind,
    Retrieval,
    Samples,
    StateKind,
    TablePrecision,
    Target,
)
from hytrec_export.settings import Limits

ENGINE_TARGETS = frozenset({Target.TENSORRT, Target.TENSORRT_RTX})


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What is built, every choice made.

    Args:
        target: never AUTO.
        reason: why this target; human-readable.
        retrieval: AUTO until the catalogue's size is known, see `resolve_retrieval`.
        min_recall: of approximate retrieval.
        reserve_items: None until the catalogue's size is known, see `resolve_retrieval`.
    """

    target: Target
    reason: str
    lowering: Lowering
    precision: Precision
    table_precision: TablePrecision
    device: Device
    state: StateKind
    execution: Execution
    fused_max_batch: int
    intra_op_threads: int
    engine: EngineOptions
    limits: Limits
    reranker: RerankerKind
    retrieval: Retrieval
    min_recall: float
    reserve_items: int | None
    samples: Samples
    atol: float

    @property
    def has_engines(self) -> bool:
        """Whether graphs are compiled."""
        return self.target in ENGINE_TARGETS

    @property
    def narrows_tables(self) -> bool:
        """Whether tables are stored in fewer bits than the graphs are exported with."""
        return self.table_precision is not TablePrecision.FLOAT32 and self.precision is not Precision.MIXED

    @property
    def precision_class(self) -> str:
        """What the numbers of the graphs depend on; states of one class are not used by graphs of another."""
        if self.table_precision is _tables_of(self.precision):
            return self.precision.value
        return f"{self.precision.value}-{self.table_precision.value}-tables"

    @property
    def host_lookup(self) -> bool:
        """Whether encoder and reranker are given item vectors: on a GPU each would hold an item table of its own."""
        return self.device is Device.CUDA

    @property
    def graphs(self) -> tuple[Model, ...]:
        """Every graph with its inputs and outputs; those of sessions carry the encoder's state too."""
        if self.state is StateKind.SEQUENCE:
            return VECTOR_SESSION_GRAPHS if self.host_lookup else SESSION_GRAPHS
        return VECTOR_GRAPHS if self.host_lookup else GRAPHS

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest; no paths, which mean nothing on another machine."""
        values = asdict(self)
        engine: dict[str, Any] = values.pop("engine")
        limits: dict[str, Any] = values.pop("limits")
        del engine["timing_cache"]
        if self.execution is not Execution.FUSED:
            del values["fused_max_batch"]
        if self.retrieval is not Retrieval.APPROXIMATE:
            del values["min_recall"]
        if not self.reserve_items:
            del values["reserve_items"]
        if self.target is not Target.ONNXRUNTIME:
            del values["intra_op_threads"]
        return values | limits | (engine if self.has_engines else {})


def _tables_of(precision: Precision) -> TablePrecision:
    """Type of the tables that goes with a precision."""
    return TablePrecision.FLOAT32 if precision is Precision.FLOAT32 else TablePrecision.FLOAT16


def has_tensorrt() -> bool:
    """Whether the package tensorrt is installed."""
    return find_spec("tensorrt") is not None


def resolve_plan(
    options: BuildOptions, *, gpus: Callable[[], int] = gpu_count, tensorrt: Callable[[], bool] = has_tensorrt
) -> BuildPlan:
    """Choose what was left open.

    Args:
        gpus: counts the GPUs here. tensorrt: tells whether TensorRT is installed here.

    Raises:
        OptionError: two options do not go together.
    """
    target, reason = (
        _automatic(gpus(), tensorrt()) if options.target is Target.AUTO else (options.target, "as asked for")
    )
    _check(options, target)
    best = Lowering.CHUNKED if target in ENGINE_TARGETS else Lowering.FUSED
    on_gpu = target in ENGINE_TARGETS or (target is Target.ONNXRUNTIME and options.device is Device.CUDA)
    quickest = Execution.FUSED if target is Target.EMBEDDED else Execution.ENSEMBLE
    half = Precision.MIXED if on_gpu else Precision.HALF_WEIGHTS
    execution = options.execution or quickest
    precision = half if options.fp16 else Precision.FLOAT32
    tables = options.table_precision or _tables_of(precision)
    if on_gpu and tables is not _tables_of(precision):
        raise OptionError(
            f"table precision {tables.value} is for graphs that run on a CPU, and those of target {target.value} run "
            "on a GPU, with tables in float32, and with --fp16 in float16; leave --table-precision out"
        )
    if options.fused_max_batch is not None and execution is not Execution.FUSED:
        raise OptionError(
            f"fused max batch {options.fused_max_batch} is for --execution fused, and this build has a model for every "
            "step; give --max-batch instead"
        )
    return BuildPlan(
        target=target,
        reason=reason,
        lowering=options.lowering or best,
        precision=precision,
        table_precision=tables,
        device=Device.CUDA if on_gpu else Device.CPU,
        state=options.state,
        execution=execution,
        fused_max_batch=min(options.fused_max_batch or FUSED_MAX_BATCH, options.limits.max_batch),
        intra_op_threads=options.intra_op_threads or INTRA_OP_THREADS,
        engine=options.engine,
        limits=options.limits,
        reranker=options.reranker,
        retrieval=Retrieval.EXACT if on_gpu else options.retrieval,
        min_recall=options.min_recall,
        reserve_items=options.reserve_items if target is Target.EMBEDDED else 0,
        samples=options.samples,
        atol=options.atol,
    )


def resolve_retrieval(plan: BuildPlan, *, items: int) -> BuildPlan:
    """The plan with AUTO retrieval and the rows to reserve resolved for a catalogue of `items` items."""
    if plan.reserve_items is None:
        plan = replace(plan, reserve_items=min(MAX_RESERVED, round(RESERVED_SHARE * items)))
    if plan.retrieval is not Retrieval.AUTO:
        return plan
    return replace(plan, retrieval=Retrieval.APPROXIMATE if items >= APPROXIMATE_ITEMS else Retrieval.EXACT)


def _automatic(gpus: int, tensorrt: bool) -> tuple[Target, str]:  # noqa: FBT001
    if gpus and tensorrt:
        return Target.TENSORRT, "TensorRT and a GPU were found"
    if gpus:
        return Target.EMBEDDED, "a GPU was found but not TensorRT; pip install 'hytrec-export[tensorrt]' brings it"
    return Target.EMBEDDED, "no GPU was found"


def _check(options: BuildOptions, target: Target) -> None:
    """Refuse what does not go together."""
    if options.lowering is Lowering.FUSED and target in ENGINE_TARGETS:
        raise OptionError(
            f"lowering fused is an operator of onnxruntime and target {target.value} has none like it; "
            "leave --lowering out"
        )
    if options.device is Device.CUDA and target is not Target.ONNXRUNTIME:
        raise OptionError(f"device cuda is for target onnxruntime; target {target.value} needs no --device")
    if options.retrieval is Retrieval.APPROXIMATE and (target in ENGINE_TARGETS or options.device is Device.CUDA):
        raise OptionError(
            "retrieval approximate is for the CPU: on a GPU the product with the whole item table is faster; "
            "leave --retrieval out"
        )
    if options.intra_op_threads is not None and (target is not Target.ONNXRUNTIME or options.device is Device.CUDA):
        raise OptionError(
            f"{options.intra_op_threads} intra-op threads are for target onnxruntime on the CPU, and target "
            f"{target.value} runs {'on CUDA' if target is Target.ONNXRUNTIME else 'another way'}; "
            "leave --intra-op-threads out"
        )
    if options.state is StateKind.SEQUENCE and target not in {Target.ONNXRUNTIME, Target.TENSORRT}:
        raise OptionError(
            f"state sequence needs Triton's onnxruntime or tensorrt backend, and target {target.value} has neither: "
            "Triton's python backend never stores a state; choose --target onnxruntime, or --state store"
        )
    if options.reserve_items and target is not Target.EMBEDDED:
        raise OptionError(
            f"{options.reserve_items} reserved items are for target embedded, and target {target.value} cannot change "
            "its tables while it serves; leave --reserve-items out, and train and build again for new items"
        )
    if options.execution is Execution.FUSED and target is not Target.EMBEDDED:
        raise OptionError(
            f"execution fused is for target embedded, whose steps are all Python; the graphs of target {target.value} "
            "are models of another Triton backend, so leave --execution out"
        )
    capability = options.engine.compute_capability
    if target is Target.TENSORRT_RTX and capability is None:
        raise OptionError(
            "target tensorrt-rtx builds for a GPU that need not be here; name it: --compute-capability sm86"
        )
    if target is not Target.TENSORRT_RTX and capability is not None:
        raise OptionError(
            f"compute capability {capability} is for target tensorrt-rtx; target {target.value} "
            + ("builds for the GPU it runs on" if target is Target.TENSORRT else "compiles nothing")
        )
    if target not in ENGINE_TARGETS and (options.engine.hardware_compatibility or options.engine.version_compatible):
        raise OptionError(f"compatible engines are asked for, and target {target.value} has no engines; leave them out")
    if target not in ENGINE_TARGETS and options.engine.timing_cache is not None:
        raise OptionError(
            f"timing cache {options.engine.timing_cache} is given, and target {target.value} compiles nothing; "
            "leave --timing-cache out"
        )
