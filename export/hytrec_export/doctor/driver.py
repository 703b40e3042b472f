"""What NVIDIA's driver says of the GPUs, asked through its own library; no CUDA package is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LIBRARY = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""Attributes of a device in CUDA's driver API."""


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


def ask_driver(load: Callable[[str], Any] = ctypes.CDLL) -> Driver:
    """The driver of this machine and its GPUs.

    Args:
        load: opens a shared library.

    Raises:
        DriverError: there is none, or it refuses a question.
    """
    try:
        library = load(LIBRARY)
    except OSError as error:
        raise DriverError(f"{LIBRARY} cannot be loaded ({' '.join(str(error).split())})") from error
    _ask(library.cuInit, 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    _ask(library.cuDriverGetVersion, ctypes.byref(version))
    _ask(library.cuDeviceGetCount, ctypes.byref(count))
    return Driver(
        cuda_version=(version.value // 1000, version.value % 1000 // 10),
        gpus=tuple(_gpus(library, count.value)),
    )


def _gpus(library: Any, count: int) -> Iterator[Gpu]:
    for number in range(count):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        major, minor = ctypes.c_int(), ctypes.c_int()
        _ask(library.cuDeviceGet, ctypes.byref(device), number)
        _ask(library.cuDeviceGetName, name, len(name), device)
        _ask(library.cuDeviceGetAttribute, ctypes.byref(major), _CAPABILITY_MAJOR, device)
        _ask(library.cuDeviceGetAttribute, ctypes.byref(minor), _CAPABILITY_MINOR, device)
        free, total = _memory(library, device)
        yield Gpu(
            name=name.value.decode(errors="replace"),
            compute_capability=f"sm{major.value}{minor.value}",
            free_bytes=free,
            total_bytes=total,
        )


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
