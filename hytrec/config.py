"""Sizes and options of a model. Config objects never enter a module: `modeling.model.build_model` unpacks them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any

from hytrec.contract import Sizes
from hytrec.errors import ConfigError
from hytrec.signature import MAX_RETRIEVED


class Branches(StrEnum):
    """Which attention a user vector and a correction come from; window sum and neighbors are part of every model."""

    BOTH = "both"
    LONG = "long"
    SHORT = "short"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a HyTRec model (symbols of DESIGN section 2).

    Args:
        items: I, items in the catalogue. The item table has I + 2 rows: 0 pads, I + 1 is the unknown item.
        behaviors: behavior keys; row 0 = none.
        heads: K = V = D / H.
        softmax_layers: L : M = 3 : 1 is the paper's best ratio.
    """

    items: int
    behaviors: int = 0
    width: Annotated[int, "D, the model's width."] = 128
    heads: Annotated[int, "H, heads of every layer."] = 2
    tadn_layers: Annotated[int, "L, TADN layers (linear attention)."] = 6
    softmax_layers: Annotated[int, "M, softmax attention layers over the window."] = 2
    window: Annotated[int, "W, recent events kept in full."] = 64
    experts: Annotated[int, "E, experts of the reranker."] = 4
    expert_width: Annotated[int, "Hidden width of an expert; 0 for D / (2 E)."] = 0
    ffn_multiple: Annotated[int, "Feed-forward width as a multiple of D."] = 2
    dropout: Annotated[float, "Dropout in training."] = 0.2
    neighbors: Annotated[int, "K, neighbors of an item that the reranker reads; 0 for none."] = 128
    branches: Annotated[Branches, "Attention that the model reads, beside window and neighbors."] = Branches.BOTH

    def __post_init__(self) -> None:
        """Raises: ConfigError: a size is out of its range."""
        for name in ("items", "width", "heads", "tadn_layers", "softmax_layers", "window", "experts", "ffn_multiple"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        for name in ("behaviors", "expert_width", "neighbors"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0")
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

    @property
    def expert_hidden(self) -> int:
        """Hidden width of an expert; by default all experts together are half as wide as the model."""
        return self.expert_width or max(2, self.width // (2 * self.experts))

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
        """Plain values, for JSON.

        Experts as wide as the model are left out: all were, before there was a choice, and fingerprints stay.
        """
        values = asdict(self)
        if self.expert_width == self.width:
            del values["expert_width"]
        return values
