"""What NVIDIA's driver says of the GPUs, asked through its own library; no CUDA package is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LIBRARY = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""Attributes of a device in CUDA's driver API."""

LoadLibrary = Callable[[str], Any]
"""Opens a shared library of a name; OSError where it cannot."""


class DriverError(Exception):
    """The driver is missing or does not work; what it said."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Args:
        compute_capability: for example "sm86".
        free_bytes, total_bytes: of its memory.
    """

    name: str
    compute_capability: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class Driver:
    """An NVIDIA driver that works.

    Args:
        cuda_version: the newest CUDA it supports, as (major, minor).
    """

    cuda_version: tuple[int, int]
    gpus: tuple[Gpu, ...]


def ask_driver(load: LoadLibrary = ctypes.CDLL) -> Driver:
    """The driver of this machine and all of its GPUs; makes a context on each, which takes a moment.

    Raises:
        DriverError: there is none, or it refuses a question.
    """
    library = _start(load)
    version = ctypes.c_int()
    _ask(library.cuDriverGetVersion, ctypes.byref(version))
    return Driver(cuda_version=(version.value // 1000, version.value % 1000 // 10), gpus=tuple(_gpus(library)))


def gpu_count(load: LoadLibrary = ctypes.CDLL) -> int:
    """GPUs that the driver of this machine offers; 0 without a driver that works."""
    try:
        return _count(_start(load))
    except DriverError:
        return 0


def capability_of_gpu(load: LoadLibrary = ctypes.CDLL) -> str | None:
    """Compute capability of the first GPU here, as "sm90"; None without one."""
    try:
        library = _start(load)
        return _capability(library, _device(library, 0))
    except DriverError:
        return None


def _start(load: LoadLibrary) -> Any:
    try:
        library = load(LIBRARY)
    except OSError as error:
        raise DriverError(f"{LIBRARY} cannot be loaded ({' '.join(str(error).split())})") from error
    _ask(library.cuInit, 0)
    return library


def _count(library: Any) -> int:
    count = ctypes.c_int()
    _ask(library.cuDeviceGetCount, ctypes.byref(count))
    return count.value


def _gpus(library: Any) -> Iterator[Gpu]:
    for number in range(_count(library)):
        device, name = _device(library, number), ctypes.create_string_buffer(256)
        _ask(library.cuDeviceGetName, name, len(name), device)
        capability = _capability(library, device)
        free, total = _memory(library, device)
        yield Gpu(
            name=name.value.decode(errors="replace"),
            compute_capability=capability,
            free_bytes=free,
            total_bytes=total,
        )


def _device(library: Any, number: int) -> ctypes.c_int:
    device = ctypes.c_int()
    _ask(library.cuDeviceGet, ctypes.byref(device), number)
    return device


def _capability(library: Any, device: ctypes.c_int) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _ask(library.cuDeviceGetAttribute, ctypes.byref(major), _CAPABILITY_MAJOR, device)
    _ask(library.cuDeviceGetAttribute, ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return f"sm{major.value}{minor.value}"


def _memory(library: Any, device: ctypes.c_int) -> tuple[int, int]:
    """Free and total bytes; the driver tells them inside a context only."""
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    _ask(library.cuDevicePrimaryCtxRetain, ctypes.byref(context), device)
    try:
        _ask(library.cuCtxSetCurrent, context)
        _ask(library.cuMemGetInfo_v2, ctypes.byref(free), ctypes.byref(total))
    finally:
        library.cuCtxSetCurrent(None)
        library.cuDevicePrimaryCtxRelease_v2(device)
    return free.value, total.value


def _ask(function: Any, *arguments: Any) -> None:
    code = function(*arguments)
    if code:
        raise DriverError(f"{function.__name__} failed with error {code}")
