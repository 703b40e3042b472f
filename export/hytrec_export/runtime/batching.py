"""How the requests of one server batch are grouped into runs of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Requests that run together, each padded to `length`; `members` are their positions in the batch."""

    length: int
    members: tuple[int, ...]


def plan_groups(lengths: Sequence[int], *, run_overhead: int, max_elements: int) -> list[Group]:
    """Group requests so that padding and runs together cost least, shortest group first.

    A group of n requests padded to length t costs `run_overhead + n * t`. The requests of a group are neighbors in
    length, so the best cut of the sorted lengths is found by dynamic programming over the distinct ones.

    Args:
        lengths: padded length of every request.
        run_overhead: cost of one more run, in elements of the dynamic axis.
        max_elements: maximum elements (n * t) of one run, which bounds its memory; a larger request runs alone.
    """
    members: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        members.setdefault(length, []).append(position)
    distinct = sorted(members)
    best: list[tuple[int, int]] = [(0, 0)]  # cheapest cost of the first `end` lengths, and where its last group starts
    for end in range(1, len(distinct) + 1):
        count = 0
        options = []
        for start in range(end - 1, -1, -1):
            count += len(members[distinct[start]])
            options.append((best[start][0] + run_overhead + count * distinct[end - 1], start))
        best.append(min(options))
    groups: list[Group] = []
    end = len(distinct)
    while end:
        start = best[end][1]
        merged = [position for length in distinct[start:end] for position in members[length]]
        groups += reversed(_within(merged, distinct[end - 1], max_elements))
        end = start
    return groups[::-1]


def _within(members: list[int], length: int, max_elements: int) -> list[Group]:
    size = max(1, max_elements // length)
    return [Group(length, tuple(members[at : at + size])) for at in range(0, len(members), size)]
