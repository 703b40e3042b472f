"""Approximate retrieval on a CPU: a scan of an 8-bit copy of the item table, and exact scores of its candidates.

At a million items the exact product reads 0.5 GB for every request, the copy is a quarter of it. It takes standard ONNX
operators alone; docs/retrieval.md compares it with other ways. Notation as in `hytrec.modeling.model`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hytrec.modeling.model import HyTRec, UserFeatures
from hytrec.modeling.sequences import hide_rows
from hytrec_export.exporters.reserved_rows import hidden_rows

CANDIDATES_PER_RETRIEVED = 2
"""Items that get an exact score, for each one that is retrieved."""
_USER_LEVELS = 63
"""A user vector is rounded to -63..63: with 7 bits two products fit int16, in which processors without VNNI add."""
_USER_ZERO = _USER_LEVELS + 1
_ITEM_LEVELS = 127
_BLOCK_ROWS = 1 << 16
"""Rows that are rounded at a time: no copy of the table is made in full precision."""


class ApproximateRetriever(nn.Module):
    """`hytrec_retriever`, approximate: the exact list but for items that the scan ranks below twice its length.

    Its first TopK takes the scan's scores of all rows, as the exact retriever's takes the exact ones.
    """

    def __init__(self, *, model: HyTRec) -> None:
        super().__init__()
        self.model = model
        self.scan = EightBitScan(table=model.item_table.weight.detach(), hidden=hidden_rows(model))
        self.candidates = min(CANDIDATES_PER_RETRIEVED * model.retrieved, model.items)

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        """User features and excluded rows (B, X) -> best item rows (B, R), 0 where fewer than R items are left."""
        *features, excluded_rows = tensors
        user = self.model.read(UserFeatures(*features), summary_only=True).user
        found, rows = torch.topk(hide_rows(self.scan(user), excluded_rows), self.candidates, dim=1)
        rows = torch.where(found > -math.inf, rows, 0)
        rows = torch.topk(rows, self.candidates, dim=1, largest=False).values  # equal scores go by row, as everywhere
        scores = (self.model.item_table(rows) @ user.unsqueeze(-1)).squeeze(-1)  # (B, C)
        best, places = torch.topk(torch.where(rows > 0, scores, -math.inf), self.model.retrieved, dim=1)
        return (torch.where(best > -math.inf, rows.gather(1, places), 0),)


class EightBitScan(nn.Module):
    """Approximate scores of every row: (B, D) -> (B, I + 2), each user's up to a positive factor of the user's own.

    Rows are 8-bit integers with a scale of their own. The user vector is unsigned, without a zero point, and what that
    adds to a score is subtracted: so onnxruntime reads the codes where they lie in a mapped file, if told to
    (`session.disable_prepacking`), by its kernel for single vectors.

    Args:
        table: (I + 2, D) float32.
        hidden: (n,) rows that get -inf.
    """

    codes: Tensor
    scales: Tensor
    offsets: Tensor

    def __init__(self, *, table: Tensor, hidden: Tensor | None = None) -> None:
        super().__init__()
        rows, width = table.shape
        self.register_buffer("codes", torch.empty(width, rows, dtype=torch.int8))
        self.register_buffer("scales", torch.empty(rows))
        self.register_buffer("offsets", torch.empty(rows))
        for start in range(0, rows, _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            scales = table[part].abs().amax(1).clamp(min=1e-30) / _ITEM_LEVELS
            codes = (table[part] / scales.unsqueeze(1)).round().to(torch.int8)
            self.codes[:, part], self.scales[part] = codes.T, scales
            self.offsets[part] = scales * codes.sum(1, dtype=torch.int32) * _USER_ZERO
        if hidden is not None:
            self.offsets[hidden] = math.inf

    def forward(self, user: Tensor) -> Tensor:
        """User vectors (B, D) -> (B, I + 2)."""
        step = user.abs().amax(1, keepdim=True).clamp(min=1e-30) / _USER_LEVELS
        unsigned = ((user / step).round() + _USER_ZERO).to(torch.uint8)
        return _integer_product(unsigned, self.codes).to(user.dtype) * self.scales - self.offsets


def _integer_product(a: Tensor, b: Tensor) -> Tensor:
    """a (B, D) uint8 times b (D, J) int8, summed in int32: (B, J)."""
    if torch.compiler.is_exporting():
        shape = (a.shape[0], b.shape[1])
        return torch.onnx.ops.symbolic("MatMulInteger", (a, b), dtype=torch.int32, shape=shape)
    return a.to(torch.int32) @ b.to(torch.int32)
