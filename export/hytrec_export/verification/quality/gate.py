"""The quality gate: half precision recommends what float32 does on real histories, or the build fails.

Both sets of graphs follow the evaluation protocol of `hytrec.data.split`: the last event of a history is to be
predicted from those before it, at its time, seen items removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from hytrec.data.histories import History
from hytrec_export.errors import QualityError
from hytrec_export.progress import Advance, ignore
from hytrec_export.runtime.model_chain import batches
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.quality.accumulator import QualityAccumulator
from hytrec_export.verification.quality.bounds import QualityBounds, QualityReport, Subject
from hytrec_export.verification.quality.drift import batch_difference, measure_drift
from hytrec_export.verification.quality.ranking import opened, query_of

DRIFT_APPENDS = 100
"""Single events fed one by one, if the longest history has as many; the benchmark feeds 10,000."""


def check_quality(
    float32: Mapping[str, Path],
    half: Mapping[str, Path],
    samples: Sequence[History],
    *,
    settings: ServingSettings,
    bounds: QualityBounds = QualityBounds(),  # noqa: B008  frozen
    subject: Subject = Subject(),  # noqa: B008  frozen
    on_case: Advance = ignore,
) -> QualityReport:
    """Compare the graphs of half precision with those of float32.

    Args:
        float32, half: .onnx files by model name; a mixed graph is run with every rounding that is written in it.
        samples: real histories.
        subject: what `half` has of float32, for messages.
        on_case: called with the number of samples just done.

    Raises:
        QualityError: half precision changes results by more than a bound, or there is no sample history.
        RepositoryError: a graph cannot be run.
    """
    queries = [query_of(history, items=settings.items) for history in samples if len(history)]
    if not queries:
        raise QualityError(
            f"there are no sample histories in the run, and nothing else shows what {subject.name} changes; "
            f"train on a log with some events, or build without {subject.option}"
        )
    with ExitStack() as stack:
        graph_sets = [opened(graphs, settings, stack) for graphs in (float32, half)]
        accumulator = QualityAccumulator(items=settings.items)
        for positions in batches(
            [query.history for query in queries],
            max_rows=settings.checked_limits.max_batch,
            max_events=settings.limits.max_events,
        ):
            batch = [queries[position] for position in positions]
            accumulator.add(batch, [graph_set.evaluate(batch) for graph_set in graph_sets], graph_sets)
            on_case(len(positions))
        longest = max(queries, key=lambda query: len(query.history))
        quality = accumulator.result(
            drift=measure_drift(graph_sets[0], graph_sets[1], longest, appends=DRIFT_APPENDS),
            batched={
                name: batch_difference(graph_set, queries)
                for name, graph_set in zip(("float32", "half"), graph_sets, strict=True)
            },
        )
    quality.check(bounds, subject)
    return quality
