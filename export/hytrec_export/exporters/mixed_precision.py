"""Mixed precision: a copy of a model whose large products are float16, so that PyTorch runs what is exported.

float16: weights of the linear layers and tables, their products, the two products of softmax attention, the user vector
against the item table; the proximities of the reranker's neighbors are stored so, and multiplied in float32. float32:
everything else, for which the modules stay as they are - the narrow projections of gate, write strength, router and
score, norms, softmax, decay, the delta rule and the state.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from torch import Tensor, nn

from hytrec.modeling.layers import MatrixProduct, MixtureOfExperts, TADNLayer, TemporalDecay
from hytrec.modeling.model import HyTRec
from hytrec.modeling.reranker import Reranker
from hytrec_export.errors import BuildError

LARGEST_HALF = 65_504.0
"""Largest number of float16."""
KEPT: dict[type[nn.Module], str] = {
    TADNLayer: "beta",
    TemporalDecay: "gate",
    MixtureOfExperts: "router",
    Reranker: "score",
}
"""Linear layers that stay float32: a few columns each, and their errors last for the rest of a history."""


class HalfLinear(nn.Module):
    """A linear layer whose product is float16: float32 in and out, the bias added in float32."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, *, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.mT.half().contiguous())  # (in, out): a graph multiplies by it as it is
        self.register_buffer("bias", bias)

    @property
    def matrix(self) -> Tensor:
        """The weight, (out, in) float16."""
        return self.weight.mT

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        product = (x.half() @ self.weight).float()
        return product if self.bias is None else product + self.bias


class HalfTable(nn.Module):
    """Rows kept in float16, given out as float32."""

    weight: Tensor

    def __init__(self, *, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.half())

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (...) int64 -> (..., D)."""
        return nn.functional.embedding(rows, self.weight).float()


class HalfProduct(nn.Module):
    """a @ b in float16: float32 in (b may be float16) and out."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., M, K) and (..., K, N) -> (..., M, N)."""
        return (a.half() @ b.half()).float()


def to_mixed_precision(model: HyTRec) -> HyTRec:
    """A copy of a model with its large products in float16; the model itself stays as it is.

    Raises:
        BuildError: a weight is over float16's largest number.
    """
    table = model.item_table.weight  # its place is taken below: no copy of it is made
    memo = {id(table): nn.Parameter(table.detach(), requires_grad=False)}
    mixed = copy.deepcopy(model, memo).eval().requires_grad_(requires_grad=False)
    for path, owner in list(mixed.named_modules()):
        for name, child in list(owner.named_children()):
            if KEPT.get(type(owner)) == name:
                continue
            half = _half(child, f"{path}.{name}".lstrip("."))
            if half is not None:
                setattr(owner, name, half)
    if mixed.neighbors is not None:
        mixed.neighbors.weights = mixed.neighbors.weights.half()  # read as float32
    return mixed


def narrow_limit(model: HyTRec) -> int:
    """Maximum columns of a weight that stays float32; less than the columns of any that is multiplied in float16."""
    kept: list[int] = []
    half = [min(model.item_table.weight.shape)]
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.Linear):
                (kept if KEPT.get(type(owner)) == name else half).append(min(child.weight.shape))
    return min(max(kept), min(half) - 1)


def narrowest(dims: Sequence[int]) -> int:
    """Rows or columns of a weight, whichever are fewer; one that is cut into heads, (H, K, D), has H * K rows."""
    return min(math.prod(dims[:-1]), dims[-1]) if len(dims) > 1 else sum(dims)


def too_large(name: str, largest: float) -> str:
    """Error message for a weight that float16 cannot hold."""
    return (
        f"{name} holds a weight of {largest:.3g} and float16 ends at {LARGEST_HALF:g}; "
        "build without --fp16, or train again with a larger --weight-decay"
    )


def _half(module: nn.Module, path: str) -> nn.Module | None:
    """What takes a module's place; None where it stays."""
    if isinstance(module, MatrixProduct):
        return HalfProduct()
    if not isinstance(module, nn.Linear | nn.Embedding):
        return None
    weight = module.weight.detach()
    largest = float(weight.abs().max())
    if not largest <= LARGEST_HALF:
        raise BuildError(too_large(path, largest))
    if isinstance(module, nn.Embedding):
        return HalfTable(weight=weight)
    bias = module.bias
    return HalfLinear(weight=weight, bias=None if bias is None else bias.detach().clone())
