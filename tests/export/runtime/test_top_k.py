from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.errors import GraphError
from hytrec_export.runtime.top_k import best_items


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([-np.inf, -1.0, 0.0, 2.5]))), st.integers(1, 8))
def test_best_items_are_the_sorted_ones(pairs: list[tuple[int, float]], top_k: int) -> None:
    rows = np.array([row for row, _ in pairs], np.int64)
    scores = np.array([score for _, score in pairs], np.float32)
    wanted = sorted(((-score, row) for row, score in pairs if row and score != -np.inf))[:top_k]
    best_rows, best_scores = best_items(rows, scores, top_k)
    assert list(zip((-best_scores).tolist(), best_rows.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_an_error(broken: float) -> None:
    message = (
        "the reranker's scores are not finite numbers, so nothing was stored; run: hytrec-export verify REPOSITORY"
    )
    with pytest.raises(GraphError, match=f"^{re.escape(message)}$"):
        best_items(np.array([1, 2]), np.array([0.5, broken], np.float32), 1)
