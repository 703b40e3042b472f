"""Every check of a run, the most telling first, each in a process of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hytrec_benchmarks.gpu.results import Result

Check = Callable[..., Iterator[Result]]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One check.

    Args:
        name: of the function.
        module: of this package, where it stands; imported in the check's own process.
        limit_s: after which it is ended; what it had written stays.
    """

    name: str
    module: str
    limit_s: float

    def load(self) -> Check:
        """The function: (bundle, device, quick=...) -> results."""
        found: Any = getattr(importlib.import_module(f"hytrec_benchmarks.gpu.{self.module}"), self.name)
        return found  # type: ignore[no-any-return]


CHECKS = (
    Planned(name="machine_rates", module="speed_checks", limit_s=40),
    Planned(name="parity_float32", module="parity_checks", limit_s=60),
    Planned(name="headline", module="speed_checks", limit_s=90),
    Planned(name="softmax_comparison", module="softmax_checks", limit_s=90),
    Planned(name="parity_mixed", module="parity_checks", limit_s=60),
    Planned(name="invariants", module="parity_checks", limit_s=90),
    Planned(name="ranking", module="speed_checks", limit_s=60),
    Planned(name="encoding", module="speed_checks", limit_s=90),
    Planned(name="retrieval", module="speed_checks", limit_s=60),
    Planned(name="onnxruntime_parity", module="runtime_checks", limit_s=90),
    Planned(name="compiled", module="speed_checks", limit_s=240),
    Planned(name="engines", module="runtime_checks", limit_s=300),
    Planned(name="triton", module="runtime_checks", limit_s=60),
)


def check_named(name: str) -> Planned:
    """The check of a name.

    Raises:
        KeyError: there is none.
    """
    return {check.name: check for check in CHECKS}[name]
