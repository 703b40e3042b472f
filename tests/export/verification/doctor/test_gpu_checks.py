from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hytrec_export.cuda_driver import Driver, DriverError, Gpu
from hytrec_export.options import Target
from hytrec_export.verification.doctor.gpu_checks import check_gpus, check_tensorrt


def lines(findings: Any) -> list[str]:
    return [str(finding) for finding in findings]


def test_a_machine_that_fits(driver: Driver, make_record: Any) -> None:
    assert lines(check_gpus(lambda: driver, {"hytrec_encoder": make_record()})) == [
        "ok      the NVIDIA driver works, it supports CUDA up to 13.0",
        "ok      GPU 0 (NVIDIA T1, sm86) runs the engines",
        "ok      GPU 0 (NVIDIA T1, sm86) has 20480 MiB of 24576 MiB free",
    ]


def test_graphs_run_on_any_gpu(driver: Driver) -> None:
    assert lines(check_gpus(lambda: driver, {}))[1] == "ok      GPU 0 (NVIDIA T1, sm86) is there"


def test_no_driver() -> None:
    def ask() -> Driver:
        raise DriverError("libcuda.so.1 cannot be loaded (not found)")

    assert lines(check_gpus(ask, {})) == [
        (
            "not ok  the NVIDIA driver does not work: libcuda.so.1 cannot be loaded (not found); "
            "install it (nvidia-smi must answer), and in a container run with --gpus all"
        ),
        "skipped compute capability and GPU memory: no driver",
    ]


def test_no_gpu(driver: Driver) -> None:
    assert lines(check_gpus(lambda: replace(driver, gpus=()), {}))[1:] == [
        "not ok  the driver offers no GPU; check CUDA_VISIBLE_DEVICES, and in a container run with --gpus all",
        "skipped compute capability and GPU memory: no GPU",
    ]


def test_a_gpu_of_another_kind(driver: Driver, gpu: Gpu, make_record: Any) -> None:
    other = replace(driver, gpus=(replace(gpu, compute_capability="sm90"),))
    assert lines(check_gpus(lambda: other, {"hytrec_encoder": make_record()}))[1] == (
        "not ok  GPU 0 (NVIDIA T1, sm90): repository/hytrec_encoder/1/model.plan was compiled for sm86, and the GPU "
        "here is sm90, which does not run it; build again on this GPU: hytrec-export build RUN --target tensorrt --fp16"
    )


def test_a_gpu_without_room(driver: Driver, gpu: Gpu, make_record: Any) -> None:
    full = replace(driver, gpus=(replace(gpu, free_bytes=(2 << 30) - 1),))
    assert lines(check_gpus(lambda: full, {"hytrec_encoder": make_record()}))[2] == (
        "not ok  GPU 0 (NVIDIA T1, sm86) has 2047 MiB of 24576 MiB free and 2048 MiB are wanted; stop other programs "
        "on it (nvidia-smi lists them), or build with a smaller --max-batch"
    )


def test_tensorrt_of_the_engines(make_record: Any) -> None:
    assert lines(check_tensorrt("10.16.1", {"hytrec_encoder": make_record()})) == [
        "ok      TensorRT 10.16.1 is here, and runs engines of 10.16.1.11"
    ]


def test_tensorrt_of_another_version(make_record: Any) -> None:
    (line,) = lines(check_tensorrt("10.8.0.43", {"hytrec_encoder": make_record()}))
    assert line.startswith("not ok  repository/hytrec_encoder/1/model.plan was compiled by tensorrt 10.16.1.11, and")
    assert line.endswith("; or run in the image nvcr.io/nvidia/tritonserver:26.04-py3")


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        ("10.16.1.11", "run in the image nvcr.io/nvidia/tritonserver:26.04-py3"),
        ("10.12.0.36", "no Triton image with TensorRT 10.12.0.36 is known"),
    ],
)
def test_tensorrt_that_is_not_there(make_record: Any, version: str, advice: str) -> None:
    (line,) = lines(check_tensorrt(None, {"hytrec_encoder": make_record(tensorrt_version=version)}))
    assert line.startswith(f"not ok  the server's TensorRT was not found (libnvinfer.so); {advice}")


def test_engines_that_no_server_loads(make_record: Any) -> None:
    record = make_record(target=Target.TENSORRT_RTX)
    assert lines(check_tensorrt("10.16.1", {"hytrec_encoder": record})) == [
        (
            "not ok  the engines are of TensorRT for RTX, which Triton has no backend for; build on this machine: "
            "hytrec-export build RUN --target tensorrt --fp16"
        )
    ]


def test_graphs_need_no_tensorrt() -> None:
    assert lines(check_tensorrt(None, {})) == ["skipped TensorRT: the repository has no engines"]
