"""Side information as a second input to the rows of the item table: a row is the item's own plus those of its features.

An item without events has no row of its own worth anything, and is ranked by its features alone. After the training the
sum is kept as the table: the exported graphs know nothing of features.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hytrec.data.feature_rows import ITEM_FEATURES_FILE, FeatureRows
from hytrec.data.histories import Histories
from hytrec.data.item_features import ItemFeatures
from hytrec.modeling.model import HyTRec

__all__ = ["add_features", "plain_weights", "save_learned"]

BoolArray = npt.NDArray[np.bool_]

RIDGE = 1.0
"""Penalty of the first feature rows, where an item with one event counts log 2."""


class FeatureSum(nn.Module):
    """Adds to every row of a table (I + 2, D) the weighted sum of its features' rows.

    Args:
        features: of the table's rows.
        rows: of the features at first, (F, D).
    """

    ids: Tensor
    offsets: Tensor
    weights: Tensor

    def __init__(self, features: ItemFeatures, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", torch.from_numpy(features.ids), persistent=False)
        self.register_buffer("offsets", torch.from_numpy(features.offsets), persistent=False)
        self.register_buffer("weights", torch.from_numpy(features.weights), persistent=False)
        self.rows = nn.Parameter(rows)

    def forward(self, own: Tensor) -> Tensor:
        """(I + 2, D) -> (I + 2, D)."""
        return own + F.embedding_bag(
            self.ids, self.rows, self.offsets, mode="sum", per_sample_weights=self.weights, include_last_offset=True
        )


def add_features(model: HyTRec, features: ItemFeatures, known: Histories) -> BoolArray:
    """Make the item table the sum of own rows and feature rows, in place; rows of items with events stay as they are.

    The features' rows start as the ridge regression of the table on the features, an item weighed by the logarithm of
    its events; items without events start with no row of their own.

    Args:
        known: the training part.

    Returns:
        Which items have no event in it, (I,) bool.
    """
    counts = np.bincount(known.item_rows, minlength=model.items + 2)[1:-1]
    table = model.item_table.weight.detach().cpu().double().numpy()
    matrix = features.matrix().astype(np.float64)
    weights = np.zeros(table.shape[0])
    weights[1:-1] = np.log1p(counts)
    weighted = sparse.diags(weights) @ matrix
    gram = (matrix.T @ weighted).toarray() + RIDGE * np.eye(len(features))
    rows = np.linalg.solve(gram, weighted.T @ table)
    own = table - matrix @ rows
    own[1:-1][counts == 0] = 0
    like = model.item_table.weight
    with torch.no_grad():
        like.copy_(torch.from_numpy(own))
    start = torch.from_numpy(rows).to(like)
    parametrize.register_parametrization(model.item_table, "weight", FeatureSum(features, start).to(like.device))
    return np.equal(counts, 0)


def save_learned(features: ItemFeatures | None, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write the features' rows to a run folder, where a model has features.

    Args:
        weights: of a model that `add_features` was called for.
    """
    if features is not None:
        rows = weights["item_table.parametrizations.weight.0.rows"].detach().cpu().float().contiguous().numpy()
        learned = FeatureRows(columns=features.columns, names=tuple(features.names), rows=rows)
        learned.save(folder / ITEM_FEATURES_FILE)


def plain_weights(model: HyTRec, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights of such a model as those of a model without features: the sum is the table."""
    if not parametrize.is_parametrized(model.item_table):
        return weights
    summed = copy.deepcopy(model)
    summed.load_state_dict(dict(weights))
    kept = {name: value for name, value in weights.items() if not name.startswith("item_table.")}
    return kept | {"item_table.weight": summed.item_table.weight.detach()}
