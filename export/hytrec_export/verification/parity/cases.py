"""Cases of the parity gate besides real histories: a grid of shapes, streaming, and batch-mates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hytrec.data.histories import History
from hytrec.signature import NOW
from hytrec_export.runtime.model_chain import ModelChain, split_at, split_every
from hytrec_export.runtime.runners import Runner
from hytrec_export.settings import Limits
from hytrec_export.verification.parity.comparator import TOP, Comparator
from hytrec_export.verification.parity.golden import CATALOGUE_SCORES, GoldenCase, compare_users
from hytrec_export.verification.parity.shape_grid import InputGenerator, ShapeCase

STREAMED = 8
STREAMED_EVENTS = 1_000
"""Maximum histories that are replayed event by event, and maximum events of one."""
BATCHED = 7
PADDING = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class RuntimePair:
    """Two runtimes to compare.

    Args:
        reference: PyTorch.
        catalogue: PyTorch's score of every item, which separates ties from errors.
        candidate: the graphs.
    """

    reference: ModelChain
    catalogue: Runner
    candidate: ModelChain


def compare_shape_case(
    runtimes: RuntimePair, generator: InputGenerator, case: ShapeCase, comparator: Comparator
) -> None:
    """Each graph on inputs of the case's sizes, the same for both runtimes."""
    state, events = generator.inputs(case)
    users = runtimes.reference.encode(state, events)
    own = runtimes.candidate.encode(state, events)
    comparator.state("grid state", own.state | own.features, users.state | users.features, str(case))

    now, candidates, excluded = generator.question(case, users.state)
    scores = runtimes.reference.rerank(users, now, candidates)
    comparator.scores("grid scores", runtimes.candidate.rerank(users, now, candidates), scores, str(case))

    catalogue = runtimes.catalogue.infer(users.features | {NOW.name: now})[CATALOGUE_SCORES]
    np.put_along_axis(catalogue, excluded, -np.inf, 1)
    catalogue[:, [0, -1]] = -np.inf
    rows = runtimes.reference.retrieve(users, now, excluded)
    got = runtimes.candidate.retrieve(users, now, excluded)
    for index, of_row in enumerate(catalogue):
        where = f"{case}, row {index}"
        comparator.retrieval("grid retrieval", (got[index], rows[index]), of_row.__getitem__, where, top=rows.shape[1])
        hidden = (got[index] > 0) & np.isneginf(of_row[got[index]])
        comparator.scores("grid retrieval", np.where(hidden, np.inf, 0.0), np.zeros(hidden.shape), where)
    comparator.case("shape cases")


def compare_streamed(
    candidate: ModelChain, golden: Sequence[GoldenCase], *, max_events: int, comparator: Comparator
) -> None:
    """The longest histories that are not too long, one event per request and in random chunks, against the whole."""
    short = [case for case in golden if len(case.history) <= STREAMED_EVENTS]
    chosen = sorted(short, key=lambda case: -len(case.history))[:STREAMED]
    random = np.random.default_rng(0)
    for name, chunks in (
        ("one event per request", [split_every(case.history, 1) for case in chosen]),
        ("random chunks", [_random_chunks(case, max_events, random) for case in chosen]),
    ):
        users = candidate.replay(chunks)
        names = [f"{len(case.history)} events, {name}" for case in chosen]
        compare_users(candidate, users, chosen, names, kind="streamed", meter=comparator)
        comparator.case("streamed histories", len(chosen))


def compare_batched(
    candidate: ModelChain, golden: Sequence[GoldenCase], *, limits: Limits, comparator: Comparator
) -> None:
    """Users of mixed lengths in one padded batch, against each of them alone and unpadded, in the same runtime."""
    fitting = [case for case in golden if len(case.history) + PADDING <= limits.max_events]
    chosen = sorted(fitting, key=lambda case: len(case.history))
    chosen = chosen[:: max(1, len(chosen) // BATCHED)][: min(BATCHED, limits.max_batch)]
    if not chosen:
        return
    users = candidate.replay([[case.history] for case in chosen], padding=PADDING)
    now = np.array([[case.now_s] for case in chosen])
    rows = np.stack([case.candidate_rows for case in chosen])
    excluded = np.stack([case.excluded_rows for case in chosen])
    scores = candidate.rerank(users, now, np.pad(rows, ((0, 0), (0, PADDING))))[:, : rows.shape[1]]
    retrieved = candidate.retrieve(users, now, np.pad(excluded, ((0, 0), (0, PADDING))))
    for index, case in enumerate(chosen):
        own = slice(index, index + 1)
        where = f"{len(case.history)} events in a batch of {len(chosen)}"
        alone = candidate.replay([[case.history]])
        comparator.state("batched state", users.row(index).state, alone.state, where)
        comparator.scores("batched scores", scores[own], candidate.rerank(alone, now[own], rows[own]), where)
        pair = (retrieved[index], candidate.retrieve(alone, now[own], excluded[own])[0])
        comparator.retrieval("batched retrieval", pair, case.scores_of, where, top=TOP)
        comparator.case("batched histories")


def _random_chunks(case: GoldenCase, max_events: int, random: np.random.Generator) -> list[History]:
    """Chunks of 1 to `max_events` events."""
    length = len(case.history)
    cuts = {*range(max_events, length, max_events), *random.integers(1, max(2, length), 5).tolist()}
    return split_at(case.history, sorted(cut for cut in cuts if cut < length))
