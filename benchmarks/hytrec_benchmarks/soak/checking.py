"""Sampled answers beside those of the same graphs in this process, on the book's histories."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hytrec.data.histories import Int64Array
from hytrec.data.vocabulary import Vocabulary
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.reference_models import Feeder
from hytrec_benchmarks.soak.book import Book, Sample
from hytrec_export.runtime.model_chain import EncodedUsers, ModelChain, empty_state, split_at
from hytrec_export.serving.save_step import best_items
from hytrec_export.settings import ServingSettings

TOLERANCE = 1e-4


@dataclass(kw_only=True)
class Comparison:
    """What sampled answers came to.

    Args:
        compared: answers that were compared.
        unknown: answers about events of which one was never seen.
        wrong: answers further off than the tolerance.
        largest: largest difference of a score.
    """

    compared: int = 0
    unknown: int = 0
    wrong: int = 0
    largest: float = 0.0


def compare(repository: Path, settings: ServingSettings, vocabulary: Vocabulary, book: Book) -> Comparison:
    """Answer every sampled question again."""
    comparison = Comparison()
    by_user: dict[str, list[Sample]] = defaultdict(list)
    for sample in book.samples:
        by_user[sample.user].append(sample)
    with onnx_chain(repository, sizes=settings.sizes) as chain:
        feeder = Feeder(chain=chain, sizes=settings.sizes, max_events=settings.limits.max_events)
        for user, samples in by_user.items():
            _compare_user(
                feeder, user, sorted(samples, key=lambda sample: sample.event_count), book, vocabulary, comparison
            )
    return comparison


def _compare_user(
    feeder: Feeder, user: str, samples: list[Sample], book: Book, vocabulary: Vocabulary, comparison: Comparison
) -> None:
    state, fed = empty_state(feeder.sizes, 1), 0
    for sample in samples:
        history = book.history(user, sample.event_count, vocabulary)
        if history is None:
            comparison.unknown += 1
            continue
        largest = feeder.max_events
        cuts = list(range(largest, sample.event_count - fed, largest))
        _, rest = split_at(history, [fed])
        for part in split_at(rest, cuts):
            users = feeder.call(part, state)
            state = users.state
        fed = sample.event_count
        difference = _difference(feeder.chain, users, sample, vocabulary)
        comparison.compared += 1
        comparison.largest = max(comparison.largest, difference)
        comparison.wrong += not difference <= TOLERANCE


def _difference(chain: ModelChain, users: EncodedUsers, sample: Sample, vocabulary: Vocabulary) -> float:
    """Largest difference of a score; infinite where an item is returned that should not be."""
    now_s = np.array([[sample.now]], np.int64)
    rows: Int64Array = vocabulary.item_rows(list(sample.keys))
    scores = chain.rerank(users, now_s, rows[None])[0]
    difference = float(np.abs(scores - sample.scores).max(initial=0.0))
    if sample.ranked:
        return difference
    retrieved = chain.retrieve(users, now_s, np.zeros((1, 1), np.int64))
    _, best = best_items(retrieved[0], chain.rerank(users, now_s, retrieved)[0], len(rows))
    if len(set(rows.tolist())) < rows.size or best.size != rows.size:
        return float("inf")
    return max(difference, float(np.abs(best - sample.scores).max(initial=0.0)))
