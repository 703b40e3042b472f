"""Accumulates the results of two sets of graphs into a quality report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hytrec.evaluation.metrics import RankingMetrics
from hytrec_export.verification.parity.comparator import TOP, largest_difference
from hytrec_export.verification.quality.bounds import AUC, HR, NDCG, Drift, MetricChange, QualityReport
from hytrec_export.verification.quality.ranking import EvalQuery, EvalResult, GraphSet, seen_rows, times

TIE = 1e-4
"""Scores this close in float32 are ties: parity with PyTorch demands no more."""
_METRIC_K = 500


class QualityAccumulator:
    """Gathers the comparison batch by batch."""

    def __init__(self, *, items: int) -> None:
        self._items = items
        self._lists = [RankingMetrics((_METRIC_K,)) for _ in range(2)]
        self._catalogues = [RankingMetrics((_METRIC_K,)) for _ in range(2)]
        self._spreads: list[float] = []
        self._score, self._where = 0.0, "every user"
        self._kept: list[float] = []
        self._in_place: list[float] = []

    def add(self, queries: Sequence[EvalQuery], results: Sequence[EvalResult], graph_sets: Sequence[GraphSet]) -> None:
        """Add both sets' results for the same queries, float32 first."""
        float32, half = results
        now = times(queries)
        other = graph_sets[1].chain.rerank(half.users, now, float32.rows)
        foreign = half.ordered()[:, :TOP]
        foreign_scores = graph_sets[0].chain.rerank(float32.users, now, foreign)
        for index, query in enumerate(queries):
            real = float32.rows[index] > 0
            if not real.any():
                continue
            scores = float32.scores[index, real]
            self._spreads.append(float(scores.std()))
            difference = largest_difference(other[index, real], scores)
            if not difference <= self._score:
                self._score, self._where = difference, f"a history of {len(query.history)} events"
            best = float32.ordered()[index, :TOP]
            last = np.sort(scores)[-TOP:][0]
            same = np.isin(foreign[index], best)
            self._in_place.append(float(same.mean()))
            self._kept.append(float((same | (foreign_scores[index] >= last - TIE)).mean()))
        self._evaluate(queries, results)

    def result(self, *, drift: Drift, batched: Mapping[str, float]) -> QualityReport:
        """Report over everything added."""
        return QualityReport(
            users=len(self._spreads),
            evaluated=self._lists[0].users,
            spread=(float(np.mean(self._spreads)) if self._spreads else 0.0) or 1.0,
            score=self._score,
            score_where=self._where,
            overlap=float(np.mean(self._kept)) if self._kept else 1.0,
            overlap_in_place=float(np.mean(self._in_place)) if self._in_place else 1.0,
            metrics=self._metrics() if self._lists[0].users else {},
            drift=drift,
            batched=batched,
        )

    def _evaluate(self, queries: Sequence[EvalQuery], results: Sequence[EvalResult]) -> None:
        predictable = np.array([query.target > 0 for query in queries])
        targets = np.array([query.target for query in queries])[predictable]
        seen = seen_rows(queries)[predictable]
        for result, lists, catalogues in zip(results, self._lists, self._catalogues, strict=True):
            lists.add_lists(result.ordered()[predictable], targets)
            catalogues.add(result.catalogue[predictable, 1:-1], targets, seen)

    def _metrics(self) -> dict[str, MetricChange]:
        users = self._lists[0].users
        lists, catalogues = ([metrics.result() for metrics in both] for both in (self._lists, self._catalogues))
        steps = {HR: 1.0, NDCG: 1 / math.log2(_METRIC_K + 1), AUC: 1 / self._items}
        return {
            name: MetricChange(float32=both[0][name], half=both[1][name], step=steps[name] / users)
            for name, both in ((HR, lists), (NDCG, lists), (AUC, catalogues))
        }
