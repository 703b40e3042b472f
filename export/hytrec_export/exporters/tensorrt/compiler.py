"""One engine from one graph, in this process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hytrec.contract import Model, Sizes
from hytrec.signature import ENCODER
from hytrec_export.cuda_driver import capability_of_gpu
from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.configuration import add_profiles, configure
from hytrec_export.exporters.tensorrt.inspection import check_engine_layers, count_engine_layers
from hytrec_export.exporters.tensorrt.layers import check_layers, count_layers
from hytrec_export.exporters.tensorrt.log import Log
from hytrec_export.exporters.tensorrt.monitor import Monitor
from hytrec_export.exporters.tensorrt.network import check_tensors, parse
from hytrec_export.exporters.tensorrt.package import TensorRT
from hytrec_export.exporters.tensorrt.profiles import Profile
from hytrec_export.exporters.tensorrt.record import EngineRecord
from hytrec_export.exporters.tensorrt.timing_cache import TimingCache
from hytrec_export.options import EngineOptions, Precision, Target
from hytrec_export.progress import Advance, ignore


@dataclass(frozen=True, kw_only=True)
class CompileJob:
    """What to compile, and how.

    Args:
        graph: the .onnx file. engine: the .plan file to write.
        sizes: of the fixed axes.
        cache: the timing cache's file.
    """

    target: Target
    model: Model
    graph: Path
    engine: Path
    sizes: Sizes
    precision: Precision
    options: EngineOptions
    profiles: list[Profile]
    cache: Path


def compile_engine(tensorrt: TensorRT, job: CompileJob, *, advance: Advance = ignore) -> EngineRecord:
    """Parse, check, compile, write.

    Args:
        advance: called with the number of `monitor.PARTS` just done.

    Raises:
        BuildError: TensorRT refuses the graph or a profile, fails, or would compile something else than asked for.
        OSError: the engine cannot be written.
    """
    start = time.monotonic()
    trt, log = tensorrt.module, Log(tensorrt.module)
    builder = trt.Builder(log.logger)
    if not builder:
        raise BuildError(f"{tensorrt.target.value} {tensorrt.version} cannot start ({log.reason()}); check the driver")
    network = parse(trt, builder, job.graph, log)
    check_tensors(network, model=job.model, sizes=job.sizes)
    check_layers(
        network,
        precision=job.precision,
        graph=job.graph.name,
        exact_products=job.model.name == ENCODER.name,
    )
    config = configure(tensorrt, builder, job.options)
    add_profiles(builder, config, job.profiles, graph=job.graph.name, log=log)
    here = capability_of_gpu()
    cache = TimingCache(path=job.cache, tensorrt=tensorrt, compute_capability=None if tensorrt.ahead_of_time else here)
    note = cache.load(config)
    # TensorRT does not keep the monitor alive.
    monitor = Monitor(trt, advance)
    config.progress_monitor = monitor.monitor
    log.clear()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            f"{tensorrt.target.value} {tensorrt.version} cannot compile {job.graph.name}: {log.reason()}; "
            "try smaller --max-batch, --max-events or --max-candidates"
        )
    job.engine.write_bytes(plan)
    cache.save(config)
    return _record(tensorrt, job, network, start, here, [note] if note else [])


def _record(
    tensorrt: TensorRT, job: CompileJob, network: Any, start: float, here: str | None, notes: list[str]
) -> EngineRecord:
    capability = job.options.compute_capability if tensorrt.ahead_of_time else here
    engine_layers = None
    if here is not None and here == capability:
        engine_layers = count_engine_layers(
            tensorrt.module, job.engine, version_compatible=job.options.version_compatible
        )
        check_engine_layers(engine_layers, precision=job.precision, engine=job.engine.name)
    return EngineRecord(
        path=job.engine,
        target=tensorrt.target,
        tensorrt_version=tensorrt.version,
        compute_capability=capability or "unknown",
        precision=job.precision,
        profiles=[{name: shapes.to_dict() for name, shapes in profile.items()} for profile in job.profiles],
        layers=count_layers(network),
        size_bytes=job.engine.stat().st_size,
        seconds=round(time.monotonic() - start, 2),
        hardware_compatibility=job.options.hardware_compatibility,
        version_compatible=job.options.version_compatible,
        engine_layers=engine_layers,
        notes=notes,
    )
