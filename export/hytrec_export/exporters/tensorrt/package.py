"""Finds the package that compiles: tensorrt 10.12 to 11 on a GPU, tensorrt_rtx without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hytrec_export.cuda_driver import gpu_count
from hytrec_export.errors import BuildError, MissingPackageError
from hytrec_export.optional import require
from hytrec_export.options import Target

MODULES = {Target.TENSORRT: "tensorrt", Target.TENSORRT_RTX: "tensorrt_rtx"}
EXTRAS = {Target.TENSORRT: "tensorrt", Target.TENSORRT_RTX: "tensorrt-rtx"}
OLDEST = (10, 12)
NEWEST_MAJOR = 11


@dataclass(frozen=True, kw_only=True)
class TensorRT:
    """A package with TensorRT's Python API.

    Args:
        target: TENSORRT or TENSORRT_RTX.
        module: the package.
    """

    target: Target
    module: Any

    @property
    def version(self) -> str:
        """For example "11.0.0.114"."""
        return str(self.module.__version__)

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for a GPU that is not here."""
        return self.target is Target.TENSORRT_RTX


def find_tensorrt(target: Target, *, gpus: Callable[[], int] = gpu_count) -> TensorRT:
    """The package that compiles for a target.

    Args:
        gpus: counts the GPUs here.

    Raises:
        BuildError: TensorRT is to compile and there is no GPU, or it is of a version that is not known here.
        MissingPackageError: the package is not installed, or its libraries cannot be loaded.
    """
    if target is Target.TENSORRT and not gpus():
        raise BuildError(
            "target tensorrt compiles on the GPU that it compiles for, and no GPU was found; run this on a GPU node, "
            "or without a GPU: hytrec-export build RUN --target tensorrt-rtx --compute-capability sm86"
        )
    found = load_tensorrt(target)
    numbers = version_numbers(found.version)
    if target is Target.TENSORRT and not (numbers[:2] >= OLDEST and numbers[0] <= NEWEST_MAJOR):
        raise BuildError(
            f"tensorrt {found.version} is installed; 10.12 to 11 are known here, run: pip install 'tensorrt>=10.12,<12'"
        )
    return found


def load_tensorrt(target: Target) -> TensorRT:
    """The package of a target, to run engines.

    Raises:
        MissingPackageError: it is not installed, or its libraries cannot be loaded.
    """
    name, extra = MODULES[target], EXTRAS[target]
    try:
        module = require(name, extra=extra)
    except (ImportError, OSError) as error:
        raise MissingPackageError(
            f"{name} cannot be loaded ({' '.join(str(error).split())}); "
            f"run: pip install --force-reinstall 'hytrec-export[{extra}]'"
        ) from error
    return TensorRT(target=target, module=module)


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.13.2.6" -> (10, 13, 2, 6)."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
