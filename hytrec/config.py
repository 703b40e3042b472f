"""Sizes and options of a model. Config objects never enter a module: `modeling.model.build_model` unpacks them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from hytrec.contract import Sizes
from hytrec.errors import ConfigError
from hytrec.signature import MAX_RETRIEVED


class Branches(StrEnum):
    """Which memories a model reads; an ablation switches one off."""

    BOTH = "both"
    LONG = "long"
    SHORT = "short"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a HyTRec model (symbols of DESIGN section 2).

    Args:
        items: I, items in the catalogue. The item table has I + 2 rows: 0 pads, I + 1 is the unknown item.
        behaviors: behavior keys; row 0 = none.
        width: D.
        heads: H; K = V = D / H.
        tadn_layers: L.
        softmax_layers: M. L : M = 3 : 1 is the paper's best ratio.
        window: W.
        experts: E.
        ffn_multiple: hidden width of the feed-forward blocks over D.
        dropout: in training only.
        branches: both, long or short.
    """

    items: int
    behaviors: int = 0
    width: int = 128
    heads: int = 2
    tadn_layers: int = 6
    softmax_layers: int = 2
    window: int = 64
    experts: int = 4
    ffn_multiple: int = 2
    dropout: float = 0.2
    branches: Branches = Branches.BOTH

    def __post_init__(self) -> None:
        """Raises: ConfigError: a size is out of its range."""
        for name in ("items", "width", "heads", "tadn_layers", "softmax_layers", "window", "experts", "ffn_multiple"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        if self.behaviors < 0:
            raise ConfigError(f"behaviors is {self.behaviors}; it must be at least 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be in [0, 1)")
        if self.width % self.heads:
            raise ConfigError(
                f"width {self.width} is not a multiple of heads {self.heads}; "
                f"choose a width such as {self.heads * max(1, self.width // self.heads)}"
            )

    @property
    def head_size(self) -> int:
        """K = V."""
        return self.width // self.heads

    @property
    def retrieved(self) -> int:
        """R, how many items the retriever returns."""
        return min(MAX_RETRIEVED, self.items)

    def sizes(self) -> Sizes:
        """Sizes of the served tensors."""
        return Sizes(
            layers=self.tadn_layers,
            heads=self.heads,
            key_size=self.head_size,
            value_size=self.head_size,
            width=self.width,
            window=self.window,
            retrieved=self.retrieved,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
