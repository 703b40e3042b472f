"""Proximity of items: how often, and how few events apart, two items stand in one history. No learning, no torch.

    A_ij = sum of 0.85^(lag - 1) over the pairs of an event of i and one of j in one history, lag of 1 to 60 events
    S_ij = A_ij / (sqrt(n_i n_j) + 10) with n the events of an item;  S_ii = 0

Both directions count alike, so S is symmetric until it is cut to the largest values of every row. `Direction.AFTER` and
`BEFORE` count the pairs in which j comes after i, or before it: S then says whether the order tells anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import sparse

from hytrec.data.histories import Histories, Int64Array
from hytrec.errors import ConfigError

__all__ = ["Direction", "largest_of_rows", "neighbor_table", "proximity"]

STEP_DECAY = 0.85
MAX_LAG = 60
SHRINKAGE = 10.0
_BLOCK_PAIRS = 2**23
"""Pairs of events held at once: about 300 MB."""


class Direction(StrEnum):
    """Which events of a history are paired with an event."""

    BOTH = "both"
    AFTER = "after"
    BEFORE = "before"


def proximity(
    histories: Histories,
    *,
    items: int,
    keep: int,
    direction: Direction = Direction.BOTH,
    step_decay: float = STEP_DECAY,
    max_lag: int = MAX_LAG,
    shrinkage: float = SHRINKAGE,
    block_pairs: int = _BLOCK_PAIRS,
) -> sparse.csr_matrix:
    """S, cut to the `keep` largest values of every row: (I, I) float32; row and column r - 1 are item row r.

    Events are taken in the order of their items, some at a time, so that a row is whole, scaled and cut before the next
    is made: memory grows with events plus `keep` values an item, not with pairs of items.

    Args:
        histories: the training part alone; events of the unknown item take up a place and pair with nothing.
        items: I.
        block_pairs: pairs of events held at once.

    Raises:
        ConfigError: `keep` is under 1.
    """
    if keep < 1:
        raise ConfigError(f"keep is {keep}; it must be at least 1")
    counts = np.bincount(histories.item_rows, minlength=items + 2)[1 : items + 1]
    indices, values = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    kept = np.zeros(items, np.int64)
    for first, sums in _row_blocks(histories, items, _lag_weights(direction, step_decay, max_lag), block_pairs):
        rows = first + np.repeat(np.arange(sums.shape[0]), np.diff(sums.indptr))
        sums.data /= np.sqrt(counts[rows].astype(np.float64) * counts[sums.indices]) + shrinkage
        sums.data[sums.indices == rows] = 0
        sums.eliminate_zeros()
        # Rounded before the cut: how float64 sums end depends on the blocks, and must not decide between equal values.
        block = largest_of_rows(sums.astype(np.float32), keep)
        kept[first : first + block.shape[0]] = np.diff(block.indptr)
        indices.append(block.indices.astype(np.int32))
        values.append(block.data)
    starts = np.concatenate(([0], np.cumsum(kept)))
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(indices), starts), shape=(items, items))


def _lag_weights(direction: Direction, step_decay: float, max_lag: int) -> dict[int, float]:
    """step_decay^(|lag| - 1) by lag, which is negative for earlier events."""
    lags = {
        Direction.BOTH: [*range(-max_lag, 0), *range(1, max_lag + 1)],
        Direction.AFTER: range(1, max_lag + 1),
        Direction.BEFORE: range(-max_lag, 0),
    }[direction]
    return {lag: step_decay ** (abs(lag) - 1) for lag in lags}


def _row_blocks(
    histories: Histories, items: int, lag_weights: dict[int, float], block_pairs: int
) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """Whole rows of A in order, diagonal included: the first row's number and (rows, I) float64.

    An item of more pairs than a block holds is summed over several.
    """
    lags, weights = np.array(list(lag_weights), np.int32), np.array(list(lag_weights.values()))
    block_events = max(1, block_pairs // lags.size)
    known = histories.item_rows <= items
    ends = np.concatenate(([0], np.cumsum(known)))
    shape = (known.size, items)
    item_at = sparse.csr_matrix((np.ones(ends[-1]), (histories.item_rows[known] - 1).astype(np.int32), ends), shape)
    order = np.argsort(histories.item_rows, kind="stable")[: ends[-1]].astype(np.int32)  # the unknown item comes last
    start_of, end_of = (
        np.repeat(bounds.astype(np.int32), histories.lengths)
        for bounds in (histories.offsets[:-1], histories.offsets[1:])
    )
    begun: tuple[int, sparse.csr_matrix] | None = None
    for start in range(0, order.size, block_events):
        events = order[start : start + block_events]
        rows = histories.item_rows[events] - 1
        places = events[:, None] + lags
        inside = (places >= start_of[events, None]) & (places < end_of[events, None])
        pairs = np.zeros(rows[-1] - rows[0] + 2, np.int64)
        pairs[1:] = np.cumsum(np.bincount(rows - rows[0], weights=inside.sum(1)))
        near = (np.broadcast_to(weights, inside.shape)[inside], places[inside], pairs)
        sums = (sparse.csr_matrix(near, (pairs.size - 1, known.size)) @ item_at).tocsr()
        if begun is not None:
            if begun[0] == rows[0]:
                sums = (sums + sparse.vstack([begun[1], sparse.csr_matrix((pairs.size - 2, items))])).tocsr()
            else:
                yield begun
        if sums.shape[0] > 1:
            yield int(rows[0]), sums[:-1]
        begun = int(rows[-1]), sums[-1]
    if begun is not None:
        yield begun


def largest_of_rows(matrix: sparse.csr_matrix, keep: int) -> sparse.csr_matrix:
    """The `keep` largest values of every row, columns in order; of equal values those of the first columns."""
    lengths = np.diff(matrix.indptr)
    chosen = np.ones(matrix.nnz, dtype=bool)
    for row in np.flatnonzero(lengths > keep):
        places = slice(matrix.indptr[row], matrix.indptr[row + 1])
        values = matrix.data[places]
        smallest = np.partition(values, values.size - keep)[values.size - keep]
        best = values > smallest
        equal = np.flatnonzero(values == smallest)
        columns = matrix.indices[places][equal]
        best[equal[np.argsort(columns)[: keep - best.sum()]]] = True
        chosen[places] = best
    starts = np.concatenate(([0], np.cumsum(np.minimum(lengths, keep))))
    result = sparse.csr_matrix((matrix.data[chosen], matrix.indices[chosen], starts), shape=matrix.shape)
    result.sort_indices()
    return result


def neighbor_table(
    similarities: sparse.csr_matrix, neighbors: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The `neighbors` largest similarities of every item, by item row.

    Args:
        similarities: (I, I), of `proximity`.
        neighbors: K.

    Returns:
        Item rows (I + 2, K) int32 and similarities (I + 2, K) float32, both 0 where an item has fewer; rows 0 (padding)
        and I + 1 (the unknown item) are empty.
    """
    best = largest_of_rows(similarities, neighbors)
    lengths = np.diff(best.indptr)
    rows: Int64Array = np.repeat(np.arange(1, lengths.size + 1), lengths)
    columns = np.arange(best.nnz) - np.repeat(best.indptr[:-1], lengths)
    ids = np.zeros((lengths.size + 2, neighbors), np.int32)
    weights = np.zeros((lengths.size + 2, neighbors), np.float32)
    ids[rows, columns] = best.indices + 1
    weights[rows, columns] = best.data
    return ids, weights
