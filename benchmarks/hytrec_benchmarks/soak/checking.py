"""Sampled responses, compared with those of the same graphs in this process on the ledger's histories."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import Int64Array
from hytrec.data.vocabulary import Vocabulary
from hytrec_benchmarks.faults.event_ledger import EventLedger, Key
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.reference_models import Feeder
from hytrec_export.runtime.model_chain import EncodedUsers, ModelChain, empty_state, split_at
from hytrec_export.runtime.top_k import best_items
from hytrec_export.settings import ServingSettings

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A response to be checked.

    Args:
        event_count: events of the user that it was made from.
        ranked: whether the keys are candidates in the order given, or the best of the catalogue, best first.
    """

    user: str
    event_count: int
    now: int
    ranked: bool
    keys: Sequence[Key]
    scores: NDArray[np.float32]


@dataclass(kw_only=True)
class Reservoir:
    """A random sample of all responses, each kept with the same chance.

    Args:
        size: largest number of samples.
    """

    size: int
    random: random.Random
    samples: list[Sample] = field(default_factory=list)
    offered: int = 0

    def offer(self, sample: Sample) -> None:
        """Keep a response, or not."""
        self.offered += 1
        if len(self.samples) < self.size:
            self.samples.append(sample)
        elif (place := self.random.randrange(self.offered)) < self.size:
            self.samples[place] = sample


@dataclass(kw_only=True)
class Comparison:
    """What sampled responses came to.

    Args:
        compared: responses that were compared.
        unknown: responses about events of which one was never seen.
        wrong: responses further off than the tolerance.
        largest: largest difference of a score.
    """

    compared: int = 0
    unknown: int = 0
    wrong: int = 0
    largest: float = 0.0


def compare(
    repository: Path,
    settings: ServingSettings,
    vocabulary: Vocabulary,
    ledger: EventLedger,
    samples: Sequence[Sample],
) -> Comparison:
    """Compute every sampled response again."""
    comparison = Comparison()
    by_user: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample.event_count):
        by_user[sample.user].append(sample)
    with onnx_chain(repository, sizes=settings.sizes) as chain:
        feeder = Feeder(chain=chain, sizes=settings.sizes, max_events=settings.limits.max_events)
        for own in by_user.values():
            _compare_user(feeder, own, ledger, vocabulary, comparison)
    return comparison


def _compare_user(
    feeder: Feeder, samples: list[Sample], ledger: EventLedger, vocabulary: Vocabulary, comparison: Comparison
) -> None:
    state, fed = empty_state(feeder.sizes, 1), 0
    for sample in samples:
        history = ledger.history(sample.user, sample.event_count, vocabulary)
        if history is None:
            comparison.unknown += 1
            continue
        cuts = range(feeder.max_events, sample.event_count - fed, feeder.max_events)
        _, rest = split_at(history, [fed])
        for part in split_at(rest, cuts):
            users = feeder.request(part, state)
            state = users.state
        fed = sample.event_count
        difference = _difference(feeder.chain, users, sample, vocabulary)
        comparison.compared += 1
        comparison.largest = float(np.maximum(comparison.largest, difference))
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
    return float(np.maximum(difference, np.abs(best - sample.scores).max(initial=0.0)))
