"""Runners that spread a graph over cores: one for short runs, all for long ones, shards for many rows or candidates.

onnxruntime shares every single operator between its threads. Runs of a few milliseconds are hundreds of operators, so
their threads mostly wait for one another, and for the cores that the models beside them use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Model
from hytrec_export.runtime.runners import Arrays, Runner, RunnerAround, cores


class SizeRouter:
    """Short runs by one runner, the others by another.

    Args:
        model: whose dynamic axis, over all rows, is the size of a run.
        short: takes runs of up to `short_elements` elements.
        long: takes the others.
    """

    def __init__(self, model: Model, *, short: Runner, long: Runner, short_elements: int) -> None:
        self._sized = next(tensor.name for tensor in model.inputs if tensor.dynamic)
        self._short = short
        self._long = long
        self._short_elements = short_elements

    def __enter__(self) -> Self:
        """Load both; raises what the runners raise."""
        self._short.__enter__()
        self._long.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        """Let go of both."""
        self._short.__exit__(*raised)
        self._long.__exit__(*raised)

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs by name -> all outputs by name."""
        runner = self._short if feed[self._sized].size <= self._short_elements else self._long
        return runner.infer(feed)


class ShardedRunner(RunnerAround):
    """Cuts a run into shards, one for each core, that run concurrently.

    Rows are dealt to the shards; a single row is cut along the dynamic axis, whose elements must not
    depend on one another.

    Args:
        runner: runs one shard on one core; it is called from several threads at once.
        min_elements: elements of the dynamic axis, over all rows, that are worth a shard; half of them are, beyond one.
        peers_idle: whether the other server processes are idle; if not, a run takes half of the cores.
    """

    def __init__(
        self, model: Model, runner: Runner, *, min_elements: int, peers_idle: Callable[[], bool] = lambda: True
    ) -> None:
        super().__init__(runner)
        self._inputs = tuple(tensor.name for tensor in model.inputs if tensor.dynamic)
        self._outputs = frozenset(tensor.name for tensor in model.outputs if tensor.dynamic)
        self._min_elements = min_elements
        self._peers_idle = peers_idle
        self._cores = cores()
        self._others: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Load the graph; raises what the runner raises."""
        super().__enter__()
        self._others = ThreadPoolExecutor(max(1, self._cores - 1), thread_name_prefix="shard")
        return self

    def __exit__(self, *raised: object) -> None:
        """Let go of it."""
        if self._others is not None:
            self._others.shutdown()
            self._others = None
        super().__exit__(*raised)

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs by name -> all outputs by name."""
        rows, length = feed[self._inputs[0]].shape
        count = min(self._cores, max(1, (2 * rows * length + self._min_elements) // (2 * self._min_elements)))
        if count > 1 and not self._peers_idle():
            count = min(count, max(1, self._cores // 2))
        if count == 1 or self._others is None:
            return self._runner.infer(feed)
        if rows > 1:
            names, axis, cuts = list(feed), 0, even_cuts(rows, min(count, rows))
        else:
            names, axis, cuts = list(self._inputs), 1, even_cuts(length, min(count, length))
        shards = [{**feed, **{name: _cut(feed[name], axis, start, stop) for name in names}} for start, stop in cuts]
        later = [self._others.submit(self._runner.infer, shard) for shard in shards[1:]]
        first = self._runner.infer(shards[0])
        outputs = [first, *(future.result() for future in later)]
        return {
            name: np.concatenate([output[name] for output in outputs], axis)
            if axis == 0 or name in self._outputs
            else first[name]
            for name in first
        }


def even_cuts(length: int, count: int) -> Sequence[tuple[int, int]]:
    """Starts and ends of `count` ranges of about one size."""
    ends = [length * number // count for number in range(count + 1)]
    return list(pairwise(ends))


def _cut(values: NDArray[Any], axis: int, start: int, stop: int) -> NDArray[Any]:
    return np.ascontiguousarray(values[start:stop] if axis == 0 else values[:, start:stop])
