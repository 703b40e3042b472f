"""Before the first step: an item table from the items' proximity, a window sum, and whether to read backwards.

Everything counted comes from the training part, every choice from the validation part. Gradient descent from a random
table does not find in a training what the first eigenvectors hold at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.linalg import eigsh

from hytrec.data.histories import Histories, Int64Array
from hytrec.data.proximity import Direction, proximity
from hytrec.data.split import Evaluation
from hytrec.evaluation.baselines import scores_of_past
from hytrec.evaluation.metrics import RankingMetrics
from hytrec.modeling.model import HyTRec
from hytrec.training.options import ItemStart, Reversal, TrainingOptions

__all__ = ["Start", "begin", "kept_neighbors", "reads_alike_backwards", "spectral_table"]

Table = npt.NDArray[np.float32]

SOFTENING = 0.02
"""Of log(1 + S / 0.02), whose eigenvectors make the table."""
HALF_LIVES = (1.0, 2.0, 4.0, 8.0)
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
NORM_START = 0.1
"""Weight of the user vector's norm: the window sum leads at first, and the layers learn what it lacks."""
ALIKE = 0.9
"""Share of the forward NDCG@10 from which histories read backwards are like histories."""
_DENSE_ITEMS = 2_000
_CHOOSING_USERS = 1_000
_NEIGHBORS = 1_000
_ENTRIES = 10**8


@dataclass(frozen=True, kw_only=True)
class Start:
    """What was chosen before the first step.

    Args:
        half_life: of the window sum, in events; None where the table is random.
        scale: of the window sum's last event, likewise.
        reversal: whether every second epoch reads histories backwards.
    """

    half_life: float | None
    scale: float | None
    reversal: bool


def kept_neighbors(items: int, neighbors: int) -> int:
    """How many proximities an item keeps: a thousand where the catalogue leaves room, at least the reranker's."""
    return max(neighbors, min(_NEIGHBORS, _ENTRIES // items), 1)


def begin(
    model: HyTRec,
    known: Histories,
    similarities: sparse.csr_matrix,
    validation: Evaluation,
    options: TrainingOptions,
) -> Start:
    """Set the item table, the window sum and the user vector's norm of a new model in place; decide on reversal.

    Args:
        known: the training part.
        similarities: of `hytrec.data.proximity` (I, I), of the training part.
        validation: users of the validation part, on at most 1,000 of whom the choices are made.
    """
    sample = validation.thinned(_CHOOSING_USERS)
    half_life = scale = None
    if options.item_start is ItemStart.SPECTRAL and similarities.nnz:
        table = spectral_table(similarities, width=model.width)
        with torch.no_grad():
            model.item_table.weight.copy_(torch.from_numpy(table))
            torch.nn.init.constant_(model.user_norm.weight, NORM_START)
        half_life, scale = _window_of(table, sample, window=model.window)
        model.window_sum.begin(scale=scale, half_life=half_life)
    reversal = options.reversal is Reversal.ON or (
        options.reversal is Reversal.AUTO and reads_alike_backwards(known, sample, items=model.items)
    )
    return Start(half_life=half_life, scale=scale, reversal=reversal)


def spectral_table(similarities: sparse.csr_matrix, *, width: int) -> Table:
    """U sqrt(max(0, lambda)) of the first `width` eigenpairs of log(1 + S / 0.02): (I + 2, width) float32.

    Rows are scaled to a mean squared length of 1 over the items; rows 0 and I + 1 are zeros, and so is what a small
    catalogue has no eigenpair for.
    """
    matrix = similarities.maximum(similarities.T).astype(np.float64)
    matrix.data = np.log1p(matrix.data / SOFTENING)
    items = matrix.shape[0]
    if items <= max(_DENSE_ITEMS, width + 1):
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        values, vectors = eigsh(matrix, k=width, which="LA", v0=np.ones(items), tol=1e-4)
    first = np.argsort(-values, kind="stable")[:width]
    found = vectors[:, first] * np.sqrt(np.maximum(values[first], 0))
    table = np.zeros((items + 2, width), np.float32)
    table[1:-1, : first.size] = found / np.sqrt((found**2).sum(1).mean())
    return table


def _window_of(table: Table, validation: Evaluation, *, window: int) -> tuple[float, float]:
    """Half-life of the untrained window sum with the best NDCG@10, then its scale with the smallest loss."""
    metrics = {half_life: RankingMetrics((10,)) for half_life in HALF_LIVES}
    losses = dict.fromkeys(product(HALF_LIVES, SCALES), 0.0)
    for half_life, (rows, targets, seen) in product(HALF_LIVES, _windows(validation, window)):
        weights = np.where(rows > 0, 0.5 ** (np.arange(window - 1, -1, -1) / half_life), 0).astype(np.float32)
        users = np.einsum("bw,bwd->bd", weights, table[rows])
        scores = users @ table[1:-1].T
        metrics[half_life].add(scores, targets, seen)
        for scale in SCALES:
            logits = torch.from_numpy(scores * np.float32(scale))
            losses[half_life, scale] += float(
                torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets - 1), reduction="sum")
            )
    best = max(HALF_LIVES, key=lambda half_life: metrics[half_life].result()["ndcg@10"])
    return best, min(SCALES, key=lambda scale: losses[best, scale])


def _windows(validation: Evaluation, window: int) -> list[tuple[Int64Array, Int64Array, Int64Array]]:
    """The last `window` rows (B, window), targets and seen rows of every batch."""
    batches = []
    for batch in validation.batches():
        rows = np.zeros((len(batch.histories), window), np.int64)
        for line, history in zip(rows, batch.histories, strict=True):
            last = history.item_rows[-window:]
            line[window - last.size :] = last
        batches.append((rows, batch.targets, batch.seen))
    return batches


def reads_alike_backwards(known: Histories, validation: Evaluation, *, items: int) -> bool:
    """Whether items tell about those before them nearly what they tell about those after.

    Measured by the proximity of the training part in one direction: the NDCG@10 on the validation part of the items
    that came before the recent ones, against that of the items that came after.
    """
    after, before = (
        _directed_gain(known, validation, items=items, direction=direction)
        for direction in (Direction.AFTER, Direction.BEFORE)
    )
    return before >= ALIKE * after


def _directed_gain(known: Histories, validation: Evaluation, *, items: int, direction: Direction) -> float:
    """Best NDCG@10 over half-lives of the sum of the recent items' rows of a directed proximity."""
    near = proximity(known, items=items, keep=_NEIGHBORS, direction=direction)
    metrics = {half_life: RankingMetrics((10,)) for half_life in HALF_LIVES}
    for batch in validation.batches():
        for half_life, metric in metrics.items():
            metric.add(scores_of_past(batch.histories, near, half_life=half_life), batch.targets, batch.seen)
    return max(metric.result()["ndcg@10"] for metric in metrics.values())
