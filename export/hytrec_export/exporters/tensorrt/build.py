"""All engines of a build: each graph compiled, checked, written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hytrec_export.errors import OptionError
from hytrec_export.exporters.tensorrt.compiler import CompileJob
from hytrec_export.exporters.tensorrt.configuration import check_capability, check_options
from hytrec_export.exporters.tensorrt.monitor import PARTS
from hytrec_export.exporters.tensorrt.package import find_tensorrt
from hytrec_export.exporters.tensorrt.profiles import profiles_of
from hytrec_export.exporters.tensorrt.record import EngineRecord
from hytrec_export.exporters.tensorrt.subprocess_compiler import compile_in_subprocess
from hytrec_export.options import Precision, Target
from hytrec_export.plan import BuildPlan
from hytrec_export.progress import Progress, silent
from hytrec_export.settings import ServingSettings

HALF_MULTIPLE = 16


def build_engines(
    graphs: Mapping[str, Path],
    folder: Path,
    *,
    plan: BuildPlan,
    settings: ServingSettings,
    timing_cache: Path,
    progress: Progress = silent,
) -> dict[str, EngineRecord]:
    """Compile the graphs into `folder`, one after the other: TensorRT times kernels, which other load would distort.

    Args:
        graphs: .onnx files by model name, in chunked lowering, with the precision of the plan.
        timing_cache: made if it is not there, and written after every engine.

    Returns:
        Records by model name; the engines are `<model>.plan`.

    Raises:
        OptionError: the plan asks for what the target's compiler does not have, or for float16 of a width that it fails
            on.
        MissingPackageError: TensorRT is not installed.
        BuildError: there is no GPU where one is needed, TensorRT refuses a graph or fails, or a layer has the wrong
            precision.
        OSError: an engine cannot be written.
    """
    check_plan(plan, settings)
    records = {}
    for model in plan.graphs:
        job = CompileJob(
            target=plan.target,
            model=model,
            graph=graphs[model.name],
            engine=folder / f"{model.name}.plan",
            sizes=settings.sizes,
            precision=plan.precision,
            options=plan.engine,
            profiles=profiles_of(model, sizes=settings.sizes, limits=settings.limits),
            cache=timing_cache,
        )
        with progress(f"compiling {model.name}", PARTS) as advance:
            records[model.name] = compile_in_subprocess(job, advance=advance)
    return records


def check_plan(plan: BuildPlan, settings: ServingSettings) -> None:
    """Reject what the target's compiler cannot do here, before anything is made: graphs and their parity take minutes.

    Raises:
        OptionError: the plan asks for what the compiler does not have.
        BuildError: there is no GPU where one is needed, or TensorRT does not build for the one that is named.
        MissingPackageError: TensorRT is not installed.
    """
    if plan.has_engines:
        check_options(plan.target, plan.engine)
        check_width(plan, settings.sizes.width)
        check_capability(find_tensorrt(plan.target), plan.engine)


def check_width(plan: BuildPlan, width: int) -> None:
    """TensorRT for RTX 1.7 fails inside itself (Myelin) on float16 attention over a width that is no multiple of 16.

    Raises:
        OptionError: it is to compile such a model.
    """
    if plan.target is Target.TENSORRT_RTX and plan.precision is Precision.MIXED and width % HALF_MULTIPLE:
        below = max(1, width // HALF_MULTIPLE) * HALF_MULTIPLE
        raise OptionError(
            f"the model's width is {width}, and TensorRT for RTX compiles --fp16 only where it is a multiple of "
            f"{HALF_MULTIPLE}; build without --fp16, or train with --width {below}"
        )
