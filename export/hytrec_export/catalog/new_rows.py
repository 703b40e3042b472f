"""Rows of new items: averages of the rows of others, or what the training would have given them for their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.data.feature_rows import ITEM_FEATURES_FILE, FeatureRows
from hytrec.data.item_columns import ColumnKind
from hytrec_export.catalog.tables import LiveTables
from hytrec_export.errors import OptionError, RepositoryError


@dataclass(frozen=True, kw_only=True)
class NewItem:
    """An item to add, as texts.

    Args:
        like: keys of items whose rows are averaged; none for an item that was removed and comes back.
        features: as "genre=Action", of which the row is made where `like` names none.
    """

    key: str
    like: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class NewRow:
    """What the tables hold of an item: its row (D,), its neighbors and their weights (K,)."""

    values: NDArray[np.float32]
    neighbor_ids: NDArray[np.int32]
    neighbor_weights: NDArray[np.float32]

    @classmethod
    def like(cls, rows: Sequence[int], tables: LiveTables) -> NewRow:
        """The average of some items."""
        values = np.mean([tables.item_row(row) for row in rows], 0, dtype=np.float64)
        ids, weights = averaged_neighbors([tables.neighbors(row) for row in rows])
        return cls(values=values.astype(np.float32), neighbor_ids=ids, neighbor_weights=weights)

    @classmethod
    def of_features(cls, item: NewItem, learned: FeatureRows, tables: LiveTables) -> NewRow:
        """The row of an item of such features that nobody had in the training; it has no neighbors.

        Raises:
            OptionError: the training knew none of the features.
        """
        values = learned.item_row(item.features)
        if values is None:
            columns = ", ".join(column.name for column in learned.columns if column.kind is not ColumnKind.KEY)
            raise OptionError(
                f"key {item.key} has nothing in common with the items of the training (columns {columns}); add it by "
                "--like KEY,KEY"
            )
        ids, weights = tables.neighbors(0)
        return cls(values=values, neighbor_ids=np.zeros_like(ids), neighbor_weights=np.zeros_like(weights))


def learned_features(repository: Path) -> FeatureRows:
    """What the training of a repository's model learned of items' features.

    Raises:
        RepositoryError: there was nothing to learn from, or the build reserved no rows.
        DataError: the file is damaged.
    """
    try:
        return FeatureRows.load(repository / ITEM_FEATURES_FILE)
    except FileNotFoundError:
        raise RepositoryError(
            f"{repository} knows no features of items: its model was trained without --item-table, or the build has no "
            "reserved rows; say which items the new ones are like: --like KEY,KEY"
        ) from None


def averaged_neighbors(
    lists: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The mean of some items' neighbors, the K largest of it, largest first."""
    size = len(lists[0][0])
    sums: dict[int, float] = {}
    for ids, weights in lists:
        for row, weight in zip(ids.tolist(), weights.tolist(), strict=True):
            if weight > 0:
                sums[row] = sums.get(row, 0.0) + weight / len(lists)
    best = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))[:size]
    ids, weights = np.zeros(size, np.int32), np.zeros(size, np.float32)
    for place, (row, weight) in enumerate(best):
        ids[place], weights[place] = row, weight
    return ids, weights
