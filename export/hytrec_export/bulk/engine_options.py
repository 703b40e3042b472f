"""Who works on all users of a store: this process, or the nodes of a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from hytrec_export.errors import OptionError


class BulkEngine(StrEnum):
    """Where pages of users are worked on."""

    LOCAL = "local"
    """in this process"""
    RAY = "ray"
    """by Ray Data, on every core of a cluster"""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of `backfill` and `state rebuild`.

    Args:
        ray_address: of a cluster, as `ray.init` takes it; a Ray of this machine is started where None.

    Raises:
        OptionError: an address without Ray.
    """

    engine: Annotated[BulkEngine, "Where it is done: in this process, or on a Ray cluster."] = BulkEngine.LOCAL
    ray_address: Annotated[str | None, "Address of the Ray cluster; RAY_ADDRESS, or a Ray of this machine."] = None

    def __post_init__(self) -> None:
        if self.ray_address is not None and self.engine is not BulkEngine.RAY:
            raise OptionError(f"the Ray address {self.ray_address} is given without Ray; add --engine ray")
