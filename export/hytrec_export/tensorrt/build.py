"""All engines of a build: each graph compiled, checked, written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hytrec.signature import GRAPHS
from hytrec_export.progress import Progress, silent
from hytrec_export.serving import ServingSettings
from hytrec_export.targets import Plan
from hytrec_export.tensorrt.compiling import Order
from hytrec_export.tensorrt.configuration import check_options
from hytrec_export.tensorrt.monitor import PARTS
from hytrec_export.tensorrt.profiles import profiles_of
from hytrec_export.tensorrt.record import EngineRecord
from hytrec_export.tensorrt.worker import compile_apart


def build_engines(
    graphs: Mapping[str, Path],
    folder: Path,
    *,
    plan: Plan,
    settings: ServingSettings,
    timing_cache: Path,
    progress: Progress = silent,
) -> dict[str, EngineRecord]:
    """Compile the graphs into `folder`, one after the other: TensorRT measures kernels and is not to be disturbed.

    Args:
        graphs: .onnx files by model name, in chunked lowering, with the precision of the plan.
        timing_cache: made if it is not there, and written after every engine.

    Returns:
        Records by model name; the engines are `<model>.plan`.

    Raises:
        OptionError: the plan asks for what the target's compiler does not have.
        MissingPackageError: TensorRT is not installed.
        BuildError: there is no GPU where one is needed, TensorRT refuses a graph or fails, or a layer has the wrong
            precision.
        OSError: an engine cannot be written.
    """
    check_options(plan.target, plan.engine)
    records = {}
    for model in GRAPHS:
        order = Order(
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
            records[model.name] = compile_apart(order, advance=advance)
    return records
