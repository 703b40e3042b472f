"""Best items of reranked candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hytrec_export.errors import GraphError


def best_items(
    rows: NDArray[np.int64], scores: NDArray[np.float32], top_k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `top_k` best rows and their scores, best first, ties by row; (R,) -> (at most top_k,) each.

    Row 0 (nothing retrieved) and scores of minus infinity are left out.

    Raises:
        GraphError: a score is NaN or plus infinity.
    """
    kept = (rows > 0) & (scores != -np.inf)
    rows, scores = rows[kept], scores[kept]
    if not np.isfinite(scores).all():
        raise GraphError(
            "the reranker's scores are not finite numbers, so nothing was stored; run: hytrec-export verify REPOSITORY"
        )
    order = np.lexsort((rows, -scores))[:top_k]
    return rows[order], scores[order]
