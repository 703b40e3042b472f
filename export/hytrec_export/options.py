"""Options of a build: one default each, stated here, from where the command line reads them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

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


class TablePrecision(StrEnum):
    """Type of the item table's numbers."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    """with a float32 scale for every row"""


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


class RerankerKind(StrEnum):
    """How much of the trained reranker is exported."""

    FULL = "full"
    """all of it"""
    LEAN = "lean"
    """without the parts whose gain, measured by the training, is not above two standard errors"""


class Retrieval(StrEnum):
    """How the retriever finds the best items of the catalogue."""

    AUTO = "auto"
    """approximate on the CPU for a large catalogue, else exact"""
    EXACT = "exact"
    """the user vector against every item's row in full precision"""
    APPROXIMATE = "approximate"
    """a scan of an 8-bit copy of the item table, then exact scores of twice as many items as are retrieved; CPU only"""


class Samples(StrEnum):
    """Histories whose golden outputs a repository stores."""

    REAL = "real"
    """of users, out of the run folder"""
    SYNTHETIC = "synthetic"
    """made up; no history of a user leaves the run folder"""


FUSED_MAX_BATCH = 4
"""Default maximum batch size of the fused models. Eight requests in flight are then four for each of its two processes;
without a limit the one that is free first takes them all and the other waits. More than four rankings also leave the
processor's caches. Appends would gain from larger batches, but Triton fails all of a batch for a malformed request."""


APPROXIMATE_ITEMS = 100_000
"""Catalogue size from which `Retrieval.AUTO` is approximate on a CPU; the measurements are in docs/retrieval.md."""


RESERVED_SHARE = 0.01
MAX_RESERVED = 10_000
"""Rows that a build of target embedded reserves for items that come later: this share of the catalogue, at most."""


INTRA_OP_THREADS = 1
"""Threads of an onnxruntime session in Triton's backend. They spin between short operators, and three models share the
cores: four on two cores left a quarter of the throughput that one gives."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How engines are built; TensorRT's own words.

    Args:
        compute_capability: target tensorrt-rtx alone needs no GPU here to build for one.
        timing_cache: kept and used again by the next build.
    """

    compute_capability: Annotated[
        str | None, "GPU architecture to compile for, for example sm86; target tensorrt-rtx only."
    ] = None
    hardware_compatibility: Annotated[bool, "Engines run on other GPUs too, more slowly."] = False
    version_compatible: Annotated[bool, "Engines run on later versions of TensorRT too."] = False
    timing_cache: Annotated[Path | None, "File of TensorRT's timing cache; default: beside the repository."] = None

    def __post_init__(self) -> None:
        """Raises: OptionError: compute_capability is not of the form sm86."""
        given = self.compute_capability
        if given is not None and not re.fullmatch(r"sm\d{2,3}", given):
            raise OptionError(f"compute capability is {given!r}; write it as sm86, sm89 or sm120")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build and how.

    Args:
        fp16: half precision, as far as the target has it; see `hytrec_export.plan`.
        table_precision: None takes what `fp16` says.
        lowering, execution: None takes the target's best.
        intra_op_threads: of every session of onnxruntime.
        limits: largest request that the build accepts.
    """

    run: Annotated[Path, "Run folder of `hytrec train`."]
    output: Annotated[Path, "Folder for the model repository; an existing repository is replaced."] = Path(
        "model_repository"
    )
    target: Annotated[Target, "Inference backend."] = Target.AUTO
    fp16: Annotated[bool, "Float16 weights, and float16 products where the target has them."] = False
    table_precision: Annotated[
        TablePrecision | None, "Type of the item table's numbers, on a CPU; default: float32, and float16 with --fp16."
    ] = None
    lowering: Annotated[Lowering | None, "Form of the recurrence in the graph; default: the fastest on the target."] = (
        None
    )
    device: Annotated[Device, "Device of target onnxruntime."] = Device.CPU
    state: Annotated[StateKind, "Where user state lives: the state store, or Triton's sequence batcher."] = (
        StateKind.STORE
    )
    execution: Annotated[
        Execution | None, "All steps of a request in one Triton model, or an ensemble; default: the target's fastest."
    ] = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    limits: Limits = field(default_factory=Limits)
    fused_max_batch: Annotated[int | None, f"Maximum batch size in --execution fused; default: {FUSED_MAX_BATCH}."] = (
        None
    )
    intra_op_threads: Annotated[
        int | None, f"Threads per operator, target onnxruntime on the CPU; default: {INTRA_OP_THREADS}."
    ] = None
    reranker: Annotated[RerankerKind, "All of the reranker, or the parts with a clear gain."] = RerankerKind.FULL
    retrieval: Annotated[Retrieval, "Every item's exact score, or an 8-bit scan and exact scores of its best."] = (
        Retrieval.AUTO
    )
    min_recall: Annotated[
        float, "Minimum share of the exact list that approximate retrieval finds; the build fails below it."
    ] = 0.99
    reserve_items: Annotated[
        int | None,
        f"Items that can be added without a new build, target embedded only; default: {RESERVED_SHARE:.0%} of the "
        f"catalogue, at most {MAX_RESERVED}.",
    ] = None
    samples: Annotated[Samples, "Histories that the repository stores for `verify`: of users, or synthetic."] = (
        Samples.REAL
    )
    atol: Annotated[float, "Maximum absolute difference from PyTorch; the build fails above it."] = 1e-4

    def __post_init__(self) -> None:
        """Raises: OptionError: atol is not positive, min_recall no share, or a count is too small."""
        if not 0 < self.atol < math.inf:
            raise OptionError(f"atol is {self.atol}; it must be over 0, and 1e-4 is what a float32 build meets")
        if not 0 < self.min_recall <= 1:
            raise OptionError(f"min recall is {self.min_recall}; it must be over 0 and at most 1, and 0.99 is usual")
        if self.reserve_items is not None and self.reserve_items < 0:
            raise OptionError(f"reserve items is {self.reserve_items}; it must be at least 0, and 0 reserves none")
        if self.fused_max_batch is not None and self.fused_max_batch < 1:
            raise OptionError(
                f"fused max batch is {self.fused_max_batch}; it must be at least 1 request, and "
                f"{FUSED_MAX_BATCH} is usual"
            )
        if self.intra_op_threads is not None and self.intra_op_threads < 1:
            raise OptionError(
                f"intra-op threads is {self.intra_op_threads}; it must be at least 1, and {INTRA_OP_THREADS} is usual"
            )
