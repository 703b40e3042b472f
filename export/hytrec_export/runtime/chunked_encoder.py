"""How a graph is run to answer calls: a long history part by part, many candidates in pieces, a click on one core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Model, next_name
from hytrec.signature import BEHAVIOR_ROWS, ENCODER, ITEM_ROWS, RERANKER, ROW_TIMES, STATE
from hytrec_export.runtime.parallel import ShardedRunner, SizeRouter
from hytrec_export.runtime.runners import Arrays, OnnxRunner, Runner

PART_EVENTS = 2_048
"""Events of a part, over all rows. What a part works on stays in the processor's caches: ten thousand events take a
quarter less time than in one run, the time stays linear, and memory is bounded."""
MIN_PART_EVENTS = 256
"""Events of a part, of one row at least."""
SHORT_EVENTS = 64
"""Events over all rows up to which an encoder's run is for one core."""
PIECE_CANDIDATES = 128
"""Candidates over all rows that are worth a core of their own."""
_EVENTS = (ITEM_ROWS.name, BEHAVIOR_ROWS.name, ROW_TIMES.name)


class ChunkedEncoder:
    """An encoder that is handed its own state after every part: streaming equals whole.

    Args:
        runner: runs the graph.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __enter__(self) -> Self:
        """Load the graph; raises what the runner raises."""
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it."""
        self._runner.__exit__(kind, error, trace)

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs by name -> all outputs by name; padding beyond the longest row's part is never run."""
        rows, steps = feed[ROW_TIMES.name].shape
        size = max(MIN_PART_EVENTS, PART_EVENTS // max(1, rows))
        if steps <= size:
            return self._runner.infer(feed)
        longest = int((feed[ROW_TIMES.name] > 0).sum(1).max())
        state = {tensor.name: feed[tensor.name] for tensor in STATE}
        outputs: Arrays = {}
        for start in range(0, max(1, longest), size):
            part = {name: np.ascontiguousarray(feed[name][:, start : start + size]) for name in _EVENTS}
            outputs = self._runner.infer(state | part)
            state = {tensor.name: outputs[next_name(tensor.name)] for tensor in STATE}
        return outputs


def open_runner(model: Model, graph: Path, *, peers_idle: Callable[[], bool] = lambda: True) -> Runner:
    """What answers calls to `model`, not yet open.

    Args:
        peers_idle: whether a ranking may take every core.
    """
    if model == ENCODER:
        short, long = OnnxRunner(graph, threads=1), OnnxRunner(graph)
        return ChunkedEncoder(SizeRouter(model, short=short, long=long, short_elements=SHORT_EVENTS))
    if model == RERANKER:
        return ShardedRunner(model, OnnxRunner(graph, threads=1), fewest=PIECE_CANDIDATES, peers_idle=peers_idle)
    return OnnxRunner(graph)
