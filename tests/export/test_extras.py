"""Extras of pip: they go together, and what needs none of them imports without them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS = {
    name: {re.split(r"[\[<>=~! ]", line)[0] for line in lines}
    for name, lines in PROJECT["optional-dependencies"].items()
}
IMPORTS = {
    "grpcio": "grpc",
    "lmdb": "lmdb",
    "nvidia-pytriton": "pytriton",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "torch": "torch",
    "tritonclient": "tritonclient",
}
"""What the packages of the extras import as."""


def test_the_two_onnxruntimes_never_come_together_but_by_name() -> None:
    plain = {name for name, packages in EXTRAS.items() if "onnxruntime" in packages}
    cuda = {name for name, packages in EXTRAS.items() if "onnxruntime-gpu" in packages}
    assert plain == {"embedded", "cpu"}
    assert cuda == {"gpu"}


def test_each_compiler_has_an_extra_of_its_own() -> None:
    assert EXTRAS["tensorrt"] == {"tensorrt"}
    assert EXTRAS["tensorrt-rtx"] == {"tensorrt-rtx"}


@pytest.mark.parametrize("module", ["hytrec_export.cli", "hytrec_export.tensorrt", "hytrec_clients.cli", "hytrec.cli"])
def test_every_optional_package_may_be_missing(module: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(IMPORTS.values())!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("extra", sorted(name for name, packages in EXTRAS.items() if packages & IMPORTS.keys()))
def test_what_an_extra_brings_can_be_imported_alone(extra: str) -> None:
    """Each package in an interpreter of its own; those that are not installed here are left out."""
    names = sorted(name for package in EXTRAS[extra] if (name := IMPORTS.get(package)) and find_spec(name))
    if not names:
        pytest.skip(f"{', '.join(sorted(EXTRAS[extra]))} is not installed here")
    code = f"import {', '.join(names)}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
