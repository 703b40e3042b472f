"""Questions to the driver, through a stand-in for its library."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from hytrec_export.cuda_driver import DriverError, Gpu, ask_driver, capability_of_gpu, gpu_count


class FakeLibrary:
    """The driver's functions; each returns the error of its name in `errors`."""

    def __init__(self, gpus: int = 2, **errors: int) -> None:
        self.gpus = gpus
        self.errors = errors
        self.released = 0

    def __getattr__(self, name: str) -> Any:
        def function(*arguments: Any) -> int:
            return self.errors.get(name) or getattr(self, f"_{name}", lambda *_: None)(*arguments) or 0

        if name.startswith("_"):
            raise AttributeError(name)
        function.__name__ = name
        return function

    def _cuDriverGetVersion(self, version: Any) -> None:  # noqa: N802
        version._obj.value = 13010

    def _cuDeviceGetCount(self, count: Any) -> None:  # noqa: N802
        count._obj.value = self.gpus

    def _cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        device._obj.value = number
        return 0 if number < self.gpus else 101

    def _cuDeviceGetName(self, name: Any, size: int, device: Any) -> None:  # noqa: N802
        name.value = f"card {device.value}".encode()

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> None:  # noqa: N802
        value._obj.value = {75: 8, 76: 6 + device.value}[attribute]

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:  # noqa: N802
        free._obj.value, total._obj.value = 3 << 30, 8 << 30

    def _cuDevicePrimaryCtxRelease_v2(self, device: Any) -> None:  # noqa: N802
        self.released += 1


def test_a_driver_tells_of_its_gpus() -> None:
    library = FakeLibrary()
    driver = ask_driver(lambda name: library)
    assert driver.cuda_version == (13, 1)
    assert driver.gpus == tuple(
        Gpu(name=f"card {number}", compute_capability=f"sm8{6 + number}", free_bytes=3 << 30, total_bytes=8 << 30)
        for number in range(2)
    )
    assert library.released == 2


def test_a_driver_without_gpus() -> None:
    assert ask_driver(lambda name: FakeLibrary(gpus=0)).gpus == ()


def no_library(name: str) -> Any:
    raise OSError(f"{name}: no such file")


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(DriverError, match=r"^libcuda.so.1 cannot be loaded \(libcuda.so.1: no such file\)$"):
        ask_driver(no_library)


def test_gpus_are_counted_and_the_first_is_told_without_a_context() -> None:
    library = FakeLibrary(cuDevicePrimaryCtxRetain=2)
    assert gpu_count(lambda name: library) == 2
    assert capability_of_gpu(lambda name: library) == "sm86"


@pytest.mark.parametrize(
    ("load", "count"),
    [
        (no_library, 0),
        (lambda name: FakeLibrary(cuInit=100), 0),
        (lambda name: FakeLibrary(gpus=0), 0),
        (lambda name: FakeLibrary(cuDeviceGetCount=3, cuDeviceGetAttribute=3), 0),
        (lambda name: FakeLibrary(cuDeviceGetAttribute=3), 2),
    ],
)
def test_without_a_driver_that_works_there_is_no_gpu(load: Any, count: int) -> None:
    assert gpu_count(load) == count
    assert capability_of_gpu(load) is None


@pytest.mark.parametrize("question", ["cuInit", "cuDeviceGetCount", "cuDeviceGetAttribute", "cuMemGetInfo_v2"])
def test_a_question_that_fails_is_named(question: str) -> None:
    library = FakeLibrary(**{question: 100})
    with pytest.raises(DriverError, match=rf"^{question} failed with error 100$"):
        ask_driver(lambda name: library)
    assert library.released == (question == "cuMemGetInfo_v2")


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_count(), reason="no GPU here")
def test_the_real_driver() -> None:
    driver = ask_driver(ctypes.CDLL)
    assert len(driver.gpus) == gpu_count()
    assert driver.gpus[0].compute_capability == capability_of_gpu()
    for gpu in driver.gpus:
        assert gpu.name
        assert 0 < gpu.free_bytes <= gpu.total_bytes
