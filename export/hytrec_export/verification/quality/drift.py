"""What adds up, and what must not matter: many appends, batch-mates, padding."""

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


def measure_drift(float32: GraphSet, half: GraphSet, question: EvalQuery, *, appends: int) -> Drift:
    """Feed both sets of graphs the same events, one a call.

    Args:
        question: its history's first `appends` events are fed, and it is asked at the end.
    """
    history = question.history.before(min(appends, len(question.history)))
    events = split_every(history, 1)
    wanted, got = (side.chain.replay([events]) for side in (float32, half))
    meter = Comparator()
    meter.state("state", got.state, wanted.state, "the last append")
    return Drift(
        appends=len(history),
        state=meter.result().worst,
        score=_score_difference((float32, wanted), (half, got), question),
    )


def batch_difference(side: GraphSet, questions: Sequence[EvalQuery]) -> float:
    """Largest difference between a user's scores in a padded batch of mixed lengths and alone."""
    by_length = sorted(questions, key=lambda question: -len(question.history))
    worst = [0.0]
    for size, padding in BATCHES:
        most = min(BATCHED_EVENTS, side.limits.max_events - padding)
        fitting = [question for question in by_length if len(question.history) <= most]
        chosen = fitting[:: max(1, len(fitting) // size)][: min(size, side.limits.max_batch)]
        if not chosen:
            continue
        together = side.encode(chosen, padding=padding)
        for index, question in enumerate(chosen):
            alone = side.encode([question])
            worst.append(_score_difference((side, alone), (side, together.row(index)), question))
    return float(np.max(worst))  # NaN if one is


def _score_difference(
    one: tuple[GraphSet, EncodedUsers], other: tuple[GraphSet, EncodedUsers], question: EvalQuery
) -> float:
    """Of the rows that the one retrieves, seen ones too."""
    rows, _ = one[0].retrieve(one[1], [replace(question, seen=question.seen[:0])])
    now = times([question])
    scores = [side.chain.rerank(users, now, rows) for side, users in (one, other)]
    return largest_difference(*(np.where(rows > 0, values, 0) for values in scores))
