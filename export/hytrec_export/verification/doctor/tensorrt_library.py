"""The TensorRT that a server on this machine would load."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from typing import Any

LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10")
VERSION_VARIABLE = "TRT_VERSION"
"""NVIDIA's images say the whole version in it, as 10.8.0.43+cuda12.8."""


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
