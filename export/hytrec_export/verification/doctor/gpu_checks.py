"""Checks of the NVIDIA driver, the GPUs and TensorRT against what the engines were built for."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from hytrec_export.cuda_driver import Driver, DriverError, Gpu
from hytrec_export.errors import DeploymentError, RepositoryError
from hytrec_export.exporters.tensorrt.record import EngineRecord, check_compute_capability, check_engine_version
from hytrec_export.options import Target
from hytrec_export.repository.triton_image import image_for
from hytrec_export.verification.findings import Finding, failed, ok, skipped

SPARE_BYTES = 1 << 30
"""GPU memory beside the engines: contexts, captured graphs, buffers of the largest batch."""
_MIB = 1 << 20
LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10")
VERSION_VARIABLE = "TRT_VERSION"
"""NVIDIA's images say the whole version in it, as 10.8.0.43+cuda12.8."""


def check_gpus(ask: Callable[[], Driver], engines: Mapping[str, EngineRecord]) -> Iterator[Finding]:
    """Driver, GPUs, compute capability, free memory."""
    try:
        driver = ask()
    except DriverError as error:
        yield failed(
            f"the NVIDIA driver does not work: {error}; install it (nvidia-smi must answer), "
            "and in a container run with --gpus all"
        )
        yield skipped("compute capability and GPU memory: no driver")
        return
    major, minor = driver.cuda_version
    yield ok(f"the NVIDIA driver works, it supports CUDA up to {major}.{minor}")
    if not driver.gpus:
        yield failed("the driver offers no GPU; check CUDA_VISIBLE_DEVICES, and in a container run with --gpus all")
        yield skipped("compute capability and GPU memory: no GPU")
        return
    for number, gpu in enumerate(driver.gpus):
        yield from _check_gpu(number, gpu, engines)


def check_tensorrt(found: str | None, engines: Mapping[str, EngineRecord]) -> Iterator[Finding]:
    """The engines' version of TensorRT against the server's.

    Args:
        found: version of the library that a server here would load.
    """
    if not engines:
        yield skipped("TensorRT: the repository has no engines")
        return
    record = next(iter(engines.values()))
    if record.target is Target.TENSORRT_RTX:
        yield failed(
            "the engines are of TensorRT for RTX, which Triton has no backend for; build on this machine: "
            f"{replace(record, target=Target.TENSORRT).rebuild_command}"
        )
        return
    if found is None:
        yield failed(f"the server's TensorRT was not found (libnvinfer.so); {_image_advice(record)}")
        return
    try:
        check_engine_version(record, found)
    except RepositoryError as error:
        yield failed(f"{error}; or {_image_advice(record)}")
        return
    yield ok(f"TensorRT {found} is here, and runs engines of {record.tensorrt_version}")


def tensorrt_version(
    load: Callable[[str], Any] = ctypes.CDLL, environment: Mapping[str, str] | None = None
) -> str | None:
    """Version of TensorRT's library, for example "10.8.0"; None where there is none."""
    values = os.environ if environment is None else environment
    for name in LIBRARIES:
        try:
            number = int(load(name).getInferLibVersion())
        except (OSError, AttributeError):
            continue
        version = f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
        said = values.get(VERSION_VARIABLE, "").partition("+")[0]
        return said if said.startswith(f"{version}.") else version
    return None


def _check_gpu(number: int, gpu: Gpu, engines: Mapping[str, EngineRecord]) -> Iterator[Finding]:
    where = f"GPU {number} ({gpu.name}, {gpu.compute_capability})"
    if engines:
        try:
            check_compute_capability(next(iter(engines.values())), gpu.compute_capability)
        except RepositoryError as error:
            yield failed(f"{where}: {error}")
        else:
            yield ok(f"{where} runs the engines")
    else:
        yield ok(f"{where} is there")
    needed = sum(record.size_bytes for record in engines.values()) + SPARE_BYTES
    free, total = gpu.free_bytes // _MIB, gpu.total_bytes // _MIB
    if gpu.free_bytes < needed:
        yield failed(
            f"{where} has {free} MiB of {total} MiB free and {-(-needed // _MIB)} MiB are wanted; stop other programs "
            "on it (nvidia-smi lists them), or build with a smaller --max-batch"
        )
    else:
        yield ok(f"{where} has {free} MiB of {total} MiB free")


def _image_advice(record: EngineRecord) -> str:
    try:
        return f"run in the image {image_for(record.tensorrt_version)}"
    except DeploymentError as error:
        return str(error)
