"""Long histories cut into stretches that follow each other in lanes: the rows of a batch go on where they ended.

lane 0   a1 a2 a3 a4 a5 c1 c2          step k trains the k-th stretch of every lane; a lane's state is carried from
lane 1   b1 b2 b3 d1 d2 e1 e2          stretch to stretch, and emptied where another user's history begins
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hytrec.data.keys import Int64Array

__all__ = ["StretchStep", "stretch_count", "stretch_steps"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StretchStep:
    """One stretch of each of B lanes.

    Args:
        lanes: (B,) int64, increasing; all of them in the first step, fewer when some have nothing left.
        starts: (B,) int64, places of the first events.
        lengths: (B,) int64 events, at least 1.
        fresh: (B,) bool, whether a history begins here.
    """

    lanes: Int64Array
    starts: Int64Array
    lengths: Int64Array
    fresh: npt.NDArray[np.bool_]


def stretch_count(lengths: Int64Array, max_stretch: int) -> Int64Array:
    """Into how many stretches histories are cut: (n,) events -> (n,)."""
    return -(-lengths // max_stretch)


def stretch_steps(
    starts: Int64Array, lengths: Int64Array, *, max_stretch: int, max_lanes: int, random: np.random.Generator
) -> list[StretchStep]:
    """All stretches of all histories, each history's in order.

    A history of n events is cut into ceil(n / max_stretch) stretches of nearly equal lengths, at borders that differ
    from epoch to epoch. Histories whose stretches are of about one length run beside each other, which keeps the
    padding small; those of full stretches, among them the very long ones, come first. There are no more lanes than are
    busy until the end: a batch never consists of the last stretches of one user alone, unless hardly anybody else's
    history is long.

    Args:
        starts, lengths: of the histories (n,), at least one event each.
        max_stretch: events.
        max_lanes: rows of a batch, at least 1.
    """
    if not lengths.size:
        return []
    counts = stretch_count(lengths, max_stretch)
    lanes = max(1, min(max_lanes, int(-(-counts.sum() // counts.max()))))
    order = np.argsort(-lengths / counts * random.uniform(0.95, 1.0, lengths.size), kind="stable")
    rows: list[list[tuple[int, int, int, bool]]] = []  # of every step: lane, start, length, fresh
    free = [(0, lane) for lane in range(lanes)]
    for history in order:
        step, lane = heapq.heappop(free)
        borders = _borders(int(lengths[history]), int(counts[history]), max_stretch, random)
        while len(rows) < step + counts[history]:
            rows.append([])
        for index, (begin, end) in enumerate(pairwise(borders)):
            rows[step + index].append((lane, int(starts[history]) + begin, end - begin, index == 0))
        heapq.heappush(free, (step + int(counts[history]), lane))
    return [_step(sorted(row)) for row in rows]


def _borders(length: int, count: int, max_stretch: int, random: np.random.Generator) -> list[int]:
    """0, ..., length: nearly equal stretches of at most `max_stretch`, shifted by what that leaves free."""
    borders = np.round(np.linspace(0, length, count + 1)).astype(np.int64)
    room = min(max_stretch - int(np.diff(borders).max()), int(np.diff(borders).min()) - 1)
    if count > 1 and room > 0:
        borders[1:-1] += random.integers(-room, room + 1)
    return [int(border) for border in borders]


def _step(row: list[tuple[int, int, int, bool]]) -> StretchStep:
    lanes, starts, lengths, fresh = zip(*row, strict=True)
    return StretchStep(
        lanes=np.array(lanes, np.int64),
        starts=np.array(starts, np.int64),
        lengths=np.array(lengths, np.int64),
        fresh=np.array(fresh, np.bool_),
    )
