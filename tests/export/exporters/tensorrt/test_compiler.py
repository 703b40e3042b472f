from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from hytrec.contract import DType, Tensor
from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt import compiler as compiling
from hytrec_export.exporters.tensorrt.compiler import compile_engine
from hytrec_export.exporters.tensorrt.configuration import WORKSPACE_BYTES, add_profiles, configure
from hytrec_export.exporters.tensorrt.log import Log
from hytrec_export.exporters.tensorrt.monitor import PARTS
from hytrec_export.exporters.tensorrt.package import TensorRT
from hytrec_export.exporters.tensorrt.profiles import Shapes
from hytrec_export.options import EngineOptions, Precision, Target

OPTIONS = EngineOptions(compute_capability="sm86")


@pytest.fixture
def configured(tensorrt: TensorRT) -> Any:
    log = Log(tensorrt.module)
    builder = tensorrt.module.Builder(log.logger)

    def run(options: EngineOptions = OPTIONS) -> Any:
        return configure(tensorrt, builder, options)

    return run


def test_tf32_is_set_by_default_and_cleared_here(tensorrt: TensorRT, configured: Any) -> None:
    trt = tensorrt.module
    builder = trt.Builder(Log(trt).logger)
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32)
    assert not configured().get_flag(trt.BuilderFlag.TF32)


def test_scratch_memory_is_limited(trt: Any, configured: Any) -> None:
    assert 0 < configured().get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) <= WORKSPACE_BYTES


@pytest.mark.parametrize("version_compatible", [False, True])
def test_version_compatibility_is_as_asked_for(trt: Any, configured: Any, version_compatible: bool) -> None:
    config = configured(EngineOptions(compute_capability="sm86", version_compatible=version_compatible))
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE) is version_compatible


@pytest.mark.parametrize("capability", ["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"])
def test_the_compute_capability_is_set(trt: Any, configured: Any, capability: str) -> None:
    config = configured(EngineOptions(compute_capability=capability))
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == trt.ComputeCapability.__members__[capability.upper()]


def test_a_gpu_that_is_not_built_for_is_refused(configured: Any) -> None:
    message = r"^compute capability is sm90; tensorrt_rtx [\d.]+ builds for sm120, sm121, sm75, sm80, sm86, sm89$"
    with pytest.raises(BuildError, match=message):
        configured(EngineOptions(compute_capability="sm90"))


def test_hardware_compatibility_is_refused_where_it_does_nothing(configured: Any) -> None:
    message = r"^tensorrt-rtx [\d.]+ has no hardware compatibility; build without --hardware-compatibility$"
    with pytest.raises(BuildError, match=message):
        configured(EngineOptions(compute_capability="sm86", hardware_compatibility=True))


def test_tensorrt_builds_for_the_gpu_here_with_details(trt: Any) -> None:
    """The path of package tensorrt, on a fake of it: only its own calls are told apart here."""
    given: Any = SimpleNamespace(
        clear_flag=lambda flag: None,
        set_flag=lambda flag: None,
        get_memory_pool_limit=lambda pool: 1 << 30,
        set_memory_pool_limit=lambda pool, size: setattr(given, "workspace", size),
        hardware_compatibility_level=None,
    )
    fake = TensorRT(target=Target.TENSORRT, module=trt)
    config = configure(
        fake, SimpleNamespace(create_builder_config=lambda: given), EngineOptions(hardware_compatibility=True)
    )
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.workspace == 1 << 30
    assert not hasattr(config, "num_compute_capabilities")


def test_a_profile_that_tensorrt_refuses_is_an_error(trt: Any, configured: Any) -> None:
    log = Log(trt)
    builder = trt.Builder(log.logger)
    falling = {"x": Shapes(minimum=(4, 64), optimum=(2, 64), maximum=(1, 64))}
    message = r"^TensorRT refuses profile 0 of toy.onnx \(.*MIN<=OPT<=MAX.*\); check the limits of the build$"
    with pytest.raises(BuildError, match=message):
        add_profiles(builder, configured(), [falling], graph="toy.onnx", log=log)


def test_an_engine_is_written_with_its_record(tensorrt: TensorRT, toy: Any, toy_job: Any) -> None:
    job = toy_job(toy.product(table=np.float16, product="float16"), precision=Precision.MIXED)
    told: list[int] = []
    record = compile_engine(tensorrt, job, advance=told.append)
    assert sum(told) == PARTS
    assert record.size_bytes == (toy.folder / "toy.plan").stat().st_size > 0
    assert record.layers["matrix_multiply"] == {"float16": 1}
    assert record.engine_layers is None
    assert record.profiles == [{"x": {"min": [1, 64], "opt": [2, 64], "max": [4, 64]}}]
    assert json.loads(json.dumps(record.to_dict()))["precision"] == "mixed-float16"


def test_a_foreign_timing_cache_is_told_and_replaced(tensorrt: TensorRT, toy: Any, toy_job: Any) -> None:
    job = toy_job(toy.write(("Relu", ["x"], "y")))
    job.cache.write_text("somebody else's")
    note = f"timing cache {job.cache} is damaged, or of another TensorRT or GPU; it was started from scratch"
    assert compile_engine(tensorrt, job).notes == [note]
    assert compile_engine(tensorrt, job).notes == []


@pytest.mark.parametrize(
    ("columns", "count", "reason"), [(64, 500, "smaller than K"), (5_000, 4_000, r"maximum value allowed \(3840\)")]
)
def test_a_builder_that_fails_says_why(
    tensorrt: TensorRT, toy: Any, toy_job: Any, columns: int, count: int, reason: str
) -> None:
    graph = toy.write(
        ("MatMul", ["x", "w"], "a"),
        ("TopK", ["a", "k"], "y indices"),
        constants={"w": np.ones((64, columns), np.float32), "k": np.array([count])},
        output=(TensorProto.FLOAT, ["B", count]),
    )
    wide = Tensor(name="y", dtype=DType.FLOAT32, axes=(count,), doc="")
    job = toy_job(graph, model=replace(toy.model, outputs=(wide,)))
    message = (
        rf"^tensorrt-rtx [\d.]+ cannot compile toy.onnx: .*{reason}.*; try smaller --max-batch, --max-events or "
        "--max-candidates$"
    )
    with pytest.raises(BuildError, match=message):
        compile_engine(tensorrt, job)
    assert not job.engine.exists()


def test_an_engine_that_cannot_be_written_is_an_os_error(tensorrt: TensorRT, toy: Any, toy_job: Any) -> None:
    job = toy_job(toy.write(("Relu", ["x"], "y")), engine=toy.folder / "missing" / "toy.plan")
    with pytest.raises(FileNotFoundError, match="missing"):
        compile_engine(tensorrt, job)


def test_a_builder_that_cannot_start_says_so(toy_job: Any, toy: Any, trt: Any) -> None:
    module = SimpleNamespace(__version__="11.0.0.114", ILogger=trt.ILogger, Builder=lambda logger: None)
    message = r"^tensorrt 11.0.0.114 cannot start \(it gave no reason\); check the driver$"
    with pytest.raises(BuildError, match=message):
        compile_engine(TensorRT(target=Target.TENSORRT, module=module), toy_job(toy.write(("Relu", ["x"], "y"))))


def test_on_the_right_gpu_the_engine_itself_is_inspected(
    tensorrt: TensorRT, toy: Any, toy_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inspected(_trt: Any, engine: Path, **_: Any) -> Any:
        assert engine.is_file()
        return {"gemm": {"float16": 3}}

    monkeypatch.setattr(compiling, "capability_of_gpu", lambda: "sm86")
    monkeypatch.setattr(compiling, "count_engine_layers", inspected)
    graph = toy.product(table=np.float16, product="float16")
    record = compile_engine(tensorrt, toy_job(graph, precision=Precision.MIXED))
    assert record.engine_layers == {"gemm": {"float16": 3}}
    with pytest.raises(BuildError, match=r"^3 layers of the float32 engine toy\.plan are float16"):
        compile_engine(tensorrt, toy_job(toy.write(("Relu", ["x"], "y"))))
