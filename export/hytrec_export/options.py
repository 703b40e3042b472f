"""Options of a build: one default each, stated here, from where the command line reads them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from hytrec_export.errors import OptionError
from hytrec_export.settings import Limits


class Target(StrEnum):
    """Inference backend."""

    AUTO = "auto"
    """tensorrt where TensorRT and a GPU are found, else embedded"""
    EMBEDDED = "embedded"
    """Triton's python backend calling onnxruntime; pip packages only"""
    ONNXRUNTIME = "onnxruntime"
    """Triton's onnxruntime backend, on the CPU or on CUDA; needs Triton's container"""
    TENSORRT = "tensorrt"
    """Triton's tensorrt backend; needs a GPU to build, and Triton's container"""
    TENSORRT_RTX = "tensorrt-rtx"
    """engines of TensorRT for RTX, built ahead of time without a GPU; Triton has no backend for them"""


class Lowering(StrEnum):
    """Form of a TADN layer's recurrence in the graph."""

    FUSED = "fused"
    """onnxruntime's operator com.microsoft::LinearAttention"""
    CHUNKED = "chunked"
    """matrix products only, for a runtime without that operator"""


class Precision(StrEnum):
    """Types of weights and matrix products."""

    FLOAT32 = "float32"
    MIXED = "mixed-float16"
    """matrices, tables and their products float16, the rest float32; written into the graph"""
    HALF_WEIGHTS = "float16-weights"
    """matrices and tables stored in float16, every product float32"""


class Device(StrEnum):
    """Where Triton's onnxruntime backend runs."""

    CPU = "cpu"
    CUDA = "cuda"


class StateKind(StrEnum):
    """Where user state lives between requests."""

    STORE = "store"
    """the state store, for every user, as long as wanted"""
    SEQUENCE = "sequence"
    """Triton's sequence batcher, in memory, for a session"""


class Execution(StrEnum):
    """How the steps of an endpoint map to Triton models."""

    FUSED = "fused"
    """all steps in one model; target embedded only, and its default"""
    ENSEMBLE = "ensemble"
    """a model for each step, as on every other target"""


class Samples(StrEnum):
    """Histories whose golden outputs a repository stores."""

    REAL = "real"
    """of users, out of the run folder"""
    SYNTHETIC = "synthetic"
    """made up; no history of a user leaves the run folder"""


FUSED_MAX_BATCH = 4
"""Default maximum batch size of the fused model. Eight requests in flight are then four for each of its two processes;
without a limit the one that is free first takes them all and the other waits. More than four rankings also leave the
processor's caches. Appends at high concurrency gain from larger batches, and so does `--durability power` with its one
fsync a batch."""


INTRA_OP_THREADS = 1
"""Threads of an onnxruntime session in Triton's backend. They spin between short operators, and three models share the
cores: four on two cores left a quarter of the throughput that one gives."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How engines are built; TensorRT's own words.

    Args:
        compute_capability: of the GPU to build for, for example "sm86"; only for tensorrt-rtx, which needs none here.
        hardware_compatibility: engines run on GPUs of other architectures too, more slowly.
        version_compatible: engines run on later versions of TensorRT too.
        timing_cache: kept and used again by the next build; by default beside the repository.
    """

    compute_capability: str | None = None
    hardware_compatibility: bool = False
    version_compatible: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        """Raises: OptionError: compute_capability is not of the form sm86."""
        given = self.compute_capability
        if given is not None and not re.fullmatch(r"sm\d{2,3}", given):
            raise OptionError(f"compute capability is {given!r}; write it as sm86, sm89 or sm120")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build and how.

    Args:
        run: run folder of `hytrec train`.
        output: where the model repository goes; a repository that stands there is replaced.
        fp16: half precision, as far as the target has it; see `hytrec_export.plan`.
        lowering: None takes the target's best.
        device: of target onnxruntime.
        execution: None takes the target's best.
        fused_max_batch: maximum batch size of the fused model; None takes `FUSED_MAX_BATCH`.
        intra_op_threads: of every onnxruntime session of target onnxruntime on the CPU; None takes `INTRA_OP_THREADS`.
        limits: largest request that the build accepts.
        samples: histories whose golden outputs the repository stores.
        atol: maximum absolute difference from PyTorch; the build fails above it.
    """

    run: Path
    output: Path = Path("model_repository")
    target: Target = Target.AUTO
    fp16: bool = False
    lowering: Lowering | None = None
    device: Device = Device.CPU
    state: StateKind = StateKind.STORE
    execution: Execution | None = None
    fused_max_batch: int | None = None
    intra_op_threads: int | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    limits: Limits = field(default_factory=Limits)
    samples: Samples = Samples.REAL
    atol: float = 1e-4

    def __post_init__(self) -> None:
        """Raises: OptionError: atol is not a positive number, or a batch or thread count is under 1."""
        if not 0 < self.atol < math.inf:
            raise OptionError(f"atol is {self.atol}; it must be over 0, and 1e-4 is what a float32 build meets")
        if self.fused_max_batch is not None and self.fused_max_batch < 1:
            raise OptionError(
                f"fused max batch is {self.fused_max_batch}; it must be at least 1 request, and "
                f"{FUSED_MAX_BATCH} is usual"
            )
        if self.intra_op_threads is not None and self.intra_op_threads < 1:
            raise OptionError(
                f"intra-op threads is {self.intra_op_threads}; it must be at least 1, and {INTRA_OP_THREADS} is usual"
            )
