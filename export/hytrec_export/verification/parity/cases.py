"""What the parity gate compares besides real histories: corners of the grid, streaming, and batch-mates."""

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
"""Most histories that are replayed event by event, and most events of one."""
BATCHED = 7
PADDING = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class RuntimePair:
    """The two runtimes.

    Args:
        reference: PyTorch.
        catalogue: PyTorch's score of every item, which tells ties from mistakes.
        candidate: the graphs.
    """

    reference: ModelChain
    catalogue: Runner
    candidate: ModelChain


def compare_corner(sides: RuntimePair, maker: InputGenerator, corner: ShapeCase, meter: Comparator) -> None:
    """Each graph on inputs of the corner's sizes, the same for both runtimes."""
    state, events = maker.inputs(corner)
    users = sides.reference.encode(state, events)
    own = sides.candidate.encode(state, events)
    meter.state("corner state", own.state | own.features, users.state | users.features, str(corner))

    now, candidates, excluded = maker.question(corner, users.state)
    scores = sides.reference.rerank(users, now, candidates)
    meter.scores("corner scores", sides.candidate.rerank(users, now, candidates), scores, str(corner))

    catalogue = sides.catalogue.infer(users.features | {NOW.name: now})[CATALOGUE_SCORES]
    np.put_along_axis(catalogue, excluded, -np.inf, 1)
    catalogue[:, [0, -1]] = -np.inf
    rows = sides.reference.retrieve(users, now, excluded)
    got = sides.candidate.retrieve(users, now, excluded)
    for index, of_row in enumerate(catalogue):
        pair = (got[index], rows[index])
        meter.lists("corner retrieval", pair, (of_row[pair[0]], of_row[pair[1]]), f"{corner}, row {index}")
    meter.case("corners")


def compare_streamed(
    candidate: ModelChain, answers: Sequence[GoldenCase], *, max_events: int, meter: Comparator
) -> None:
    """The longest histories that are not too long, one event a call and in random parts, against the whole."""
    short = [answer for answer in answers if len(answer.history) <= STREAMED_EVENTS]
    chosen = sorted(short, key=lambda answer: -len(answer.history))[:STREAMED]
    random = np.random.default_rng(0)
    for name, parts in (
        ("one event a call", [split_every(answer.history, 1) for answer in chosen]),
        ("random parts", [_random_parts(answer, max_events, random) for answer in chosen]),
    ):
        users = candidate.replay(parts)
        names = [f"{len(answer.history)} events, {name}" for answer in chosen]
        compare_users(candidate, users, chosen, names, kind="streamed", meter=meter)
        meter.case("streamed histories", len(chosen))


def compare_batched(candidate: ModelChain, answers: Sequence[GoldenCase], *, limits: Limits, meter: Comparator) -> None:
    """Users of mixed lengths in one padded batch, against each of them alone and unpadded, in the same runtime."""
    fitting = [answer for answer in answers if len(answer.history) + PADDING <= limits.max_events]
    chosen = sorted(fitting, key=lambda answer: len(answer.history))
    chosen = chosen[:: max(1, len(chosen) // BATCHED)][: min(BATCHED, limits.max_batch)]
    if not chosen:
        return
    users = candidate.replay([[answer.history] for answer in chosen], padding=PADDING)
    now = np.array([[answer.now_s] for answer in chosen])
    rows = np.stack([answer.candidate_rows for answer in chosen])
    excluded = np.stack([answer.excluded_rows for answer in chosen])
    scores = candidate.rerank(users, now, np.pad(rows, ((0, 0), (0, PADDING))))[:, : rows.shape[1]]
    retrieved = candidate.retrieve(users, now, np.pad(excluded, ((0, 0), (0, PADDING))))[:, :TOP]
    for index, answer in enumerate(chosen):
        own = slice(index, index + 1)
        where = f"{len(answer.history)} events in a batch of {len(chosen)}"
        alone = candidate.replay([[answer.history]])
        meter.state("batched state", users.row(index).state, alone.state, where)
        meter.scores("batched scores", scores[own], candidate.rerank(alone, now[own], rows[own]), where)
        pair = (retrieved[index], candidate.retrieve(alone, now[own], excluded[own])[0, :TOP])
        meter.lists("batched retrieval", pair, (answer.scores_of(pair[0]), answer.scores_of(pair[1])), where)
        meter.case("batched histories")


def _random_parts(answer: GoldenCase, max_events: int, random: np.random.Generator) -> list[History]:
    """Parts of 1 to `max_events` events."""
    length = len(answer.history)
    cuts = {*range(max_events, length, max_events), *random.integers(1, max(2, length), 5).tolist()}
    return split_at(answer.history, sorted(cut for cut in cuts if cut < length))
