"""Options of a build: one default each, stated here, from where the command line reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hytrec_export.errors import OptionError
from hytrec_export.serving import Limits


class Target(StrEnum):
    """Who runs the graphs."""

    EMBEDDED = "embedded"
    """Triton's python backend calling onnxruntime; pip packages only"""


class Lowering(StrEnum):
    """How a TADN layer's recurrence stands in the graph."""

    FUSED = "fused"
    """onnxruntime's operator com.microsoft::LinearAttention"""
    CHUNKED = "chunked"
    """matrix products only, for a runtime without that operator"""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build and how.

    Args:
        run: run folder of `hytrec train`.
        output: where the model repository goes; a repository that stands there is replaced.
        limits: largest call that the build accepts.
        atol: largest difference from PyTorch that the parity gate lets pass.
    """

    run: Path
    output: Path = Path("model_repository")
    target: Target = Target.EMBEDDED
    lowering: Lowering = Lowering.FUSED
    limits: Limits = field(default_factory=Limits)
    atol: float = 1e-4

    def __post_init__(self) -> None:
        """Raises: OptionError: atol is not a positive number."""
        if not 0 < self.atol < math.inf:
            raise OptionError(f"atol is {self.atol}; it must be over 0, and 1e-4 is what a float32 build meets")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest; no paths, which mean nothing on another machine."""
        return {
            "target": self.target.value,
            "lowering": self.lowering.value,
            "atol": self.atol,
            "max_events": self.limits.max_events,
            "max_candidates": self.limits.max_candidates,
            "max_excluded": self.limits.max_excluded,
            "max_batch": self.limits.max_batch,
        }
