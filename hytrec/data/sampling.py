"""Batches for training: histories bucketed by length, long ones in stretches, with positions to read the user at.

Everything random is drawn from a generator that is seeded by (seed, epoch): a resumed run draws what an uninterrupted
one would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hytrec.data.histories import Histories, History, Int64Array
from hytrec.data.stretches import StretchStep, stretch_steps

__all__ = ["TargetWeights", "TrainingBatch", "sampled_histories", "training_batches", "training_users"]

_MIN_EVENTS = 2
_MAX_BATCH = 512
_SAMPLES = 400
_LONGEST_SAMPLES = 20
_SAMPLE_EVENTS = 150_000


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """B histories or stretches of T events at most, padded at the end, and what came after every event.

    Args:
        item_rows, behavior_rows, times: (B, T) int64; time 0 marks padding.
        targets: (B, T) int64, item row of the next event; 0 where there is nothing to learn from.
        next_times: (B, T) int64 unix seconds, time of the next event.
        positions: (B, P) int64, where the user vector is trained; repeated where a history is shorter than P. With
            `weights`, those first that are followed by an event that counts in full.
        chosen: (B, P) bool, False at the repeats.
        lanes: (B,) int64, whose state each row goes on from; None for whole histories, which begin without one.
        fresh: (B,) bool, rows of lanes where a history begins.
        weights: (B, T) float32, what each target counts in a loss; None where all count the same.
    """

    item_rows: Tensor
    behavior_rows: Tensor
    times: Tensor
    targets: Tensor
    next_times: Tensor
    positions: Tensor
    chosen: Tensor
    lanes: Tensor | None = None
    fresh: Tensor | None = None
    weights: Tensor | None = None

    @property
    def events(self) -> int:
        """Events that are encoded, padding left out."""
        return int((self.times > 0).sum())


@dataclass(frozen=True, kw_only=True)
class TargetWeights:
    """What an event counts as a target: 1 if it is of one of some behaviors, `other` if not.

    Args:
        behaviors: rows.
    """

    behaviors: Sequence[int]
    other: float

    def of(self, behavior_rows: Int64Array) -> npt.NDArray[np.float32]:
        """The weights of events, in their shape."""
        return np.where(np.isin(behavior_rows, self.behaviors), 1.0, self.other).astype(np.float32)


def training_users(histories: Histories) -> Int64Array:
    """Users with an event to learn from and one to predict."""
    return np.flatnonzero(histories.lengths >= _MIN_EVENTS)


def training_batches(
    histories: Histories,
    *,
    items: int,
    max_history: int,
    batch_events: int,
    positions: int,
    unknown_rate: float,
    random: np.random.Generator,
    weights: TargetWeights | None = None,
) -> Iterator[TrainingBatch]:
    """One epoch: every event once, in batches of similar lengths and of about `batch_events` events, padding included.

    Histories of at most `max_history` events come whole, in random order; in between, and evenly spread, come longer
    ones in stretches (`hytrec.data.stretches`), each history's in order.

    Args:
        items: I.
        max_history: events of a stretch at most.
        positions: P.
        unknown_rate: share of the input items replaced by the unknown item, so that its row is learned.
        weights: of targets by behavior; None: all the same.
    """
    users = training_users(histories)
    starts, lengths = histories.offsets[users], histories.lengths[users] - 1
    long = lengths > max_history
    steps = stretch_steps(
        starts[long],
        lengths[long],
        max_stretch=max_history,
        max_lanes=max(1, batch_events // max_history),
        random=random,
    )
    starts, lengths = starts[~long], lengths[~long]
    order = np.argsort(lengths * random.uniform(0.9, 1.1, lengths.size), kind="stable")
    groups = [order[group] for group in _grouped(lengths[order], batch_events)]
    whole = [groups[group] for group in random.permutation(len(groups))]
    for part in _spread(whole, steps):
        if isinstance(part, StretchStep):
            batch = _batch(histories, part.starts, part.lengths, items, positions, unknown_rate, random, weights)
            yield replace(batch, lanes=torch.from_numpy(part.lanes), fresh=torch.from_numpy(part.fresh))
        else:
            yield _batch(histories, starts[part], lengths[part], items, positions, unknown_rate, random, weights)


def _spread(whole: list[Int64Array], steps: list[StretchStep]) -> list[Int64Array | StretchStep]:
    """Both lists in one, each in its order, as evenly mixed as they can be."""
    places = np.concatenate([(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in (whole, steps)])
    parts = [*whole, *steps]
    return [parts[index] for index in np.argsort(places, kind="stable")]


def _grouped(lengths: Int64Array, batch_events: int) -> list[slice]:
    """Cut increasing lengths into runs whose padded size stays near `batch_events`."""
    groups, start = [], 0
    while start < lengths.size:
        stop = start + 1
        while stop < lengths.size and stop - start < _MAX_BATCH:
            if lengths[start : stop + 1].max() * (stop + 1 - start) > batch_events:
                break
            stop += 1
        groups.append(slice(start, stop))
        start = stop
    return groups


def _batch(
    histories: Histories,
    starts: Int64Array,
    lengths: Int64Array,
    items: int,
    positions: int,
    unknown_rate: float,
    random: np.random.Generator,
    weights: TargetWeights | None,
) -> TrainingBatch:
    steps = np.arange(lengths.max())
    real = steps < lengths[:, None]
    places = starts[:, None] + np.minimum(steps, lengths[:, None] - 1)

    def gathered(values: Int64Array, shift: int = 0) -> Int64Array:
        return np.where(real, values[places + shift], 0)

    rows = gathered(histories.item_rows)
    targets = gathered(histories.item_rows, 1)
    unknown = real & (random.random(rows.shape) < unknown_rate)
    counted = None if weights is None else weights.of(gathered(histories.behavior_rows, 1))
    keys = random.random(rows.shape)
    if counted is not None:
        keys[counted == 1] -= 1  # one purchase among a hundred clicks would hardly ever be drawn
    drawn = np.where(real, keys, 2.0).argsort(1)[:, :positions]  # real positions first
    chosen = np.arange(drawn.shape[1]) < lengths[:, None]
    return TrainingBatch(
        item_rows=torch.from_numpy(np.where(unknown, items + 1, rows)),
        behavior_rows=torch.from_numpy(gathered(histories.behavior_rows)),
        times=torch.from_numpy(gathered(histories.times)),
        targets=torch.from_numpy(np.where(targets <= items, targets, 0)),
        next_times=torch.from_numpy(gathered(histories.times, 1)),
        positions=torch.from_numpy(np.where(chosen, drawn, drawn[:, :1])),
        chosen=torch.from_numpy(chosen),
        weights=None if counted is None else torch.from_numpy(counted),
    )


def sampled_histories(histories: Histories) -> list[History]:
    """Real histories for a run folder: the 20 longest, others evenly spaced; at most 400, about 150,000 events."""
    order = np.argsort(-histories.lengths, kind="stable")
    spread = order[np.unique(np.linspace(0, order.size - 1, min(_SAMPLES, order.size)).astype(np.int64))]
    chosen = [*order[:_LONGEST_SAMPLES], *spread[~np.isin(spread, order[:_LONGEST_SAMPLES])][::-1]]
    ends = np.cumsum(histories.lengths[chosen])
    within = (ends <= _SAMPLE_EVENTS) | (np.arange(len(chosen)) < 1)
    return [histories.history(user) for user, fits in zip(chosen, within, strict=True) if fits]
