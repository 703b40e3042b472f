"""Runs an engine on this machine's GPU, for the comparison with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hytrec_export.errors import GraphError, MissingPackageError, RepositoryError
from hytrec_export.exporters.tensorrt.log import Log
from hytrec_export.exporters.tensorrt.network import DTYPES
from hytrec_export.exporters.tensorrt.package import TensorRT
from hytrec_export.optional import require
from hytrec_export.runtime.runners import Arrays

ProfileShapes = Mapping[str, tuple[tuple[int, ...], ...]]
"""Minimum, optimum and maximum shape by input."""


def nearest_profile(profiles: Sequence[ProfileShapes], shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The profile with the nearest optimum of those that take the shapes, as Triton chooses; None if none does."""
    distances = {
        number: sum(
            abs(size - usual)
            for name, shape in shapes.items()
            for size, usual in zip(shape, profile[name][1], strict=True)
        )
        for number, profile in enumerate(profiles)
        if all(_fits(shape, profile[name]) for name, shape in shapes.items())
    }
    return min(distances, key=distances.__getitem__, default=None)


def _fits(shape: tuple[int, ...], ranges: tuple[tuple[int, ...], ...]) -> bool:
    minimum, _, maximum = ranges
    return all(low <= size <= high for low, size, high in zip(minimum, shape, maximum, strict=True))


class TensorRTRunner:
    """An engine; its tensors live in PyTorch's memory on the GPU.

    Args:
        tensorrt: of the version that compiled the engine.
        engine: the .plan file.
        version_compatible: such an engine holds a runtime of its own, which is run.
    """

    def __init__(self, tensorrt: TensorRT, engine: Path, *, version_compatible: bool = False) -> None:
        self._tensorrt = tensorrt
        self._path = engine
        self._version_compatible = version_compatible
        self._torch: Any = None
        self._log: Log | None = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._inputs: tuple[str, ...] = ()
        self._outputs: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        """Load the engine.

        Raises:
            MissingPackageError: torch is not installed, or finds no GPU.
            RepositoryError: the file is missing, or TensorRT refuses it.
        """
        self._torch = require("torch", extra="export")
        if not self._torch.cuda.is_available():
            raise MissingPackageError(
                "torch finds no GPU to run an engine on; on a GPU node install the CUDA build: "
                "pip install --index-url https://download.pytorch.org/whl/cu130 torch==2.13.0"
            )
        trt = self._tensorrt.module
        self._log = Log(trt)
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise RepositoryError(
                f"{self._path} cannot be read ({error.strerror}); build the repository again"
            ) from error
        self._runtime = trt.Runtime(self._log.logger)
        self._runtime.engine_host_code_allowed = self._version_compatible
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise RepositoryError(
                f"{self._tensorrt.target.value} {self._tensorrt.version} refuses {self._path} ({self._log.reason()}); "
                "build it again on this machine"
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._inputs = tuple(name for name in names if is_input[name])
        self._outputs = tuple(name for name in names if not is_input[name])
        return self

    def __exit__(self, *_: object) -> None:
        """Free the engine, what was made from it first."""
        self._context = self._engine = self._runtime = None

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs by name -> all outputs by name.

        Raises:
            GraphError: no profile takes the shapes, or the run failed.
        """
        stream = self._torch.cuda.current_stream()
        profiles = [self._profile(number) for number in range(self._engine.num_optimization_profiles)]
        number = nearest_profile(profiles, {name: feed[name].shape for name in self._inputs})
        if number is None:
            shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in feed.items())
            raise GraphError(f"{self._path} has no profile for {shapes}; build with larger limits")
        self._context.set_optimization_profile_async(number, stream.cuda_stream)
        tensors = {}
        for name in self._inputs:
            tensors[name] = self._torch.from_numpy(np.ascontiguousarray(feed[name])).cuda()
            self._context.set_input_shape(name, tuple(feed[name].shape))
        for name in self._outputs:
            shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
            dtype = getattr(self._torch, DTYPES[self._engine.get_tensor_dtype(name).name])
            tensors[name] = self._torch.empty(shape, dtype=dtype, device="cuda")
        for name, tensor in tensors.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        if not self._context.execute_async_v3(stream.cuda_stream):
            reason = self._log.reason() if self._log else ""
            raise GraphError(f"{self._path} could not run ({reason}); see whether other programs fill the GPU's memory")
        stream.synchronize()
        return {name: tensors[name].cpu().numpy() for name in self._outputs}

    def _profile(self, number: int) -> ProfileShapes:
        return {
            name: tuple(tuple(map(int, shape)) for shape in self._engine.get_tensor_profile_shape(name, number))
            for name in self._inputs
        }
