"""Drift over many single-event appends, and the effect of batch-mates and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hytrec_export.runtime.model_chain import EncodedUsers, split_every
from hytrec_export.verification.parity.comparator import Comparator, largest_difference
from hytrec_export.verification.quality.bounds import Drift
from hytrec_export.verification.quality.ranking import EvalQuery, GraphSet, times

BATCHES = ((2, 1), (3, 64), (7, 5))
"""Users, and empty places after the longest history, of the batches that are compared with their users alone."""
BATCHED_EVENTS = 200
"""Longest history of them."""


def measure_drift(float32: GraphSet, half: GraphSet, query: EvalQuery, *, appends: int) -> Drift:
    """Feed both sets of graphs the same events, one per request.

    Args:
        query: its history's first `appends` events are fed, and it is evaluated at the end.
    """
    history = query.history.before(min(appends, len(query.history)))
    events = split_every(history, 1)
    wanted, got = (graph_set.chain.replay([events]) for graph_set in (float32, half))
    comparator = Comparator()
    comparator.state("state", got.state, wanted.state, "the last append")
    return Drift(
        appends=len(history),
        state=comparator.result().worst,
        score=_score_difference((float32, wanted), (half, got), query),
    )


def batch_difference(graph_set: GraphSet, queries: Sequence[EvalQuery]) -> float:
    """Largest difference between a user's scores in a padded batch of mixed lengths and alone."""
    by_length = sorted(queries, key=lambda query: -len(query.history))
    worst = [0.0]
    for size, padding in BATCHES:
        maximum = min(BATCHED_EVENTS, graph_set.limits.max_events - padding)
        fitting = [query for query in by_length if len(query.history) <= maximum]
        chosen = fitting[:: max(1, len(fitting) // size)][: min(size, graph_set.limits.max_batch)]
        if not chosen:
            continue
        together = graph_set.encode(chosen, padding=padding)
        for index, query in enumerate(chosen):
            alone = graph_set.encode([query])
            worst.append(_score_difference((graph_set, alone), (graph_set, together.row(index)), query))
    return float(np.max(worst))  # NaN if one is


def _score_difference(
    one: tuple[GraphSet, EncodedUsers], other: tuple[GraphSet, EncodedUsers], query: EvalQuery
) -> float:
    """Of the rows that the one retrieves, seen ones too."""
    rows, _ = one[0].retrieve(one[1], [replace(query, seen=query.seen[:0])])
    now = times([query])
    scores = [graph_set.chain.rerank(users, now, rows) for graph_set, users in (one, other)]
    return largest_difference(*(np.where(rows > 0, values, 0) for values in scores))
