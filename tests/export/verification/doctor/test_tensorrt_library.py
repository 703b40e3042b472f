from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hytrec_export.verification.doctor.gpu_checks import tensorrt_version


def library(wanted: str, number: int) -> Any:
    def load(name: str) -> Any:
        if name != wanted:
            raise OSError(name)
        return SimpleNamespace(getInferLibVersion=lambda: number)

    return load


@pytest.mark.parametrize(
    ("name", "number", "version"),
    [("libnvinfer.so.10", 101601, "10.16.1"), ("libnvinfer.so.11", 110000, "11.0.0")],
)
def test_the_library_says_its_version(name: str, number: int, version: str) -> None:
    assert tensorrt_version(library(name, number), {}) == version


@pytest.mark.parametrize(
    ("said", "version"),
    [("10.16.1.11+cuda13.2", "10.16.1.11"), ("10.16.1.11", "10.16.1.11"), ("9.3.0.1", "10.16.1"), ("", "10.16.1")],
)
def test_the_images_variable_is_more_exact(said: str, version: str) -> None:
    assert tensorrt_version(library("libnvinfer.so.10", 101601), {"TRT_VERSION": said}) == version


def test_without_tensorrt_there_is_no_version() -> None:
    assert tensorrt_version(library("none", 0), {"TRT_VERSION": "10.16.1.11"}) is None
