"""Side information of items (categories, price bands): a bag of features for every row of the item table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from hytrec.data.item_columns import ItemColumn
from hytrec.data.keys import Int64Array

__all__ = ["ItemFeatures"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemFeatures:
    """Features of the rows of an item table; F of them, each either there or not.

    Args:
        names: (F,) as "genre=Action".
        offsets: (I + 3,) int64; the features of row r, 0 <= r <= I + 1, are `ids[offsets[r]:offsets[r + 1]]`. Padding
            and the unknown item have none.
        ids: (n,) int64, 0..F - 1.
        columns: of the table that they were read from.
    """

    names: Sequence[str]
    offsets: Int64Array
    ids: Int64Array
    columns: tuple[ItemColumn, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        rows: Int64Array,
        ids: Int64Array,
        *,
        items: int,
        columns: tuple[ItemColumn, ...] = (),
    ) -> ItemFeatures:
        """From pairs of a row 1..I and a feature, (n,) each, in any order."""
        order = np.lexsort((ids, rows))
        counts = np.bincount(rows, minlength=items + 2)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        return cls(names=tuple(names), offsets=offsets, ids=ids[order], columns=columns)

    @property
    def weights(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """(n,) float32: 1 / sqrt(features of the row), so that every row has length 1."""
        counts = np.diff(self.offsets)
        return np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)

    def matrix(self) -> sparse.csr_matrix:
        """(I + 2, F) float32 of `weights`."""
        return sparse.csr_matrix((self.weights, self.ids, self.offsets), shape=(self.offsets.size - 1, len(self)))

    def digest(self) -> str:
        """SHA-256 in hex of names and features; equal ones have equal digests."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for array in (self.offsets, self.ids):
            digest.update(b"\0" + array.astype("<i8").tobytes())
        return digest.hexdigest()
