"""Reserved rows: places in a model's tables for items that come after the training. No user gets them until then."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hytrec.data.histories import History
from hytrec.modeling.layers import MatrixProduct
from hytrec.modeling.model import HyTRec

if TYPE_CHECKING:  # a bare machine has no msgspec
    from hytrec.run_folder import Run

__all__ = ["MaskedProduct", "hidden_rows", "reserve_rows"]

_BLOCK_ROWS = 1 << 16


class MaskedProduct(MatrixProduct):
    """A product with the item table, and -inf for rows that are not to be retrieved.

    Args:
        product: a (B, D) times b (D, J).
        mask: (J,) 0 or -inf.
    """

    mask: Tensor

    def __init__(self, product: MatrixProduct, mask: Tensor) -> None:
        super().__init__()
        self.product = product
        self.register_buffer("mask", mask)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., D) and (D, J) -> (..., J)."""
        return self.product(a, b) + self.mask  # type: ignore[no-any-return]


def hidden_rows(model: HyTRec) -> Tensor | None:
    """Rows of a model that are not to be retrieved, (n,) int64; None where no rows are reserved."""
    product = model.catalogue_product
    return torch.nonzero(product.mask < 0).flatten() if isinstance(product, MaskedProduct) else None


def reserve_rows(run: Run, count: int, folder: Path) -> Run:
    """Put rows of zeros between the items and the unknown item, in all tables of the run's model, in place.

    Args:
        folder: for the new tables, which are mapped from files: a large one never stands in memory.

    Returns:
        The run, its samples with the unknown item's new row.
    """
    if not count:
        return run
    items, model = run.config.items, run.model
    folder.mkdir()
    table = _widened(model.item_table.weight.detach(), items, count, folder / "items")
    model.item_table = nn.Embedding.from_pretrained(table)
    if model.neighbors is not None:
        model.neighbors.ids = _widened(model.neighbors.ids, items, count, folder / "neighbor_ids")
        model.neighbors.weights = _widened(model.neighbors.weights, items, count, folder / "neighbor_weights")
    mask = torch.zeros(items + count + 2)
    mask[items + 1 :] = -math.inf
    mask[0] = -math.inf
    model.catalogue_product = MaskedProduct(model.catalogue_product, mask)
    model.items = items + count
    return replace(run, samples=[_moved(history, items, count) for history in run.samples])


def _widened(tensor: Tensor, items: int, count: int, file: Path) -> Tensor:
    """(I + 2, C) -> (I + count + 2, C), the last row still the last."""
    source = tensor.numpy()
    wide = np.memmap(file, source.dtype, "w+", shape=(len(source) + count, source.shape[1]))
    for start in range(0, items + 1, _BLOCK_ROWS):
        stop = min(items + 1, start + _BLOCK_ROWS)
        wide[start:stop] = source[start:stop]
    wide[-1] = source[-1]
    return torch.from_numpy(wide)


def _moved(history: History, items: int, count: int) -> History:
    """A history whose unknown items have their new row."""
    rows = history.item_rows
    return replace(history, item_rows=np.where(rows > items, items + count + 1, rows))
