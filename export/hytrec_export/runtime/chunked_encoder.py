"""How each graph is run: long histories in chunks, many candidates in shards, single events on one core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Model, next_name
from hytrec.signature import BEHAVIOR_ROWS, ENCODER, ITEM_ROWS, RERANKER, ROW_TIMES, STATE
from hytrec_export.runtime.item_vectors import ItemTable, with_lookup
from hytrec_export.runtime.parallel import ShardedRunner, SizeRouter
from hytrec_export.runtime.runners import Arrays, Live, OnnxRunner, Runner, RunnerAround

CHUNK_EVENTS = 2_048
"""Events of a chunk, over all rows. What a chunk works on stays in the processor's caches: ten thousand events take a
quarter less time than in one run, the time stays linear, and memory is bounded."""
MIN_CHUNK_EVENTS = 256
"""Minimum events of a chunk in each row."""
SHORT_EVENTS = 160
"""Events over all rows up to which an encoder's run is for one core."""
SHARD_CANDIDATES = 128
"""Candidates over all rows that are worth a core of their own."""
_EVENTS = (ITEM_ROWS.name, BEHAVIOR_ROWS.name, ROW_TIMES.name)


class ChunkedEncoder(RunnerAround):
    """Runs a long history in chunks, feeding each chunk's output state into the next; equals one run over all of it.

    Args:
        runner: runs the graph.
        max_events: largest T of the open graph; None where it has no limit.
    """

    def __init__(self, runner: Runner, *, max_events: Callable[[], int | None] = lambda: None) -> None:
        super().__init__(runner)
        self._max_events = max_events

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs by name -> all outputs by name; padding beyond the longest row's last chunk is never run.

        Args:
            feed: STATE of `hytrec.signature` (B, ...), and item_rows, behavior_rows, event_times (B, T) int64.
        """
        rows, steps = feed[ROW_TIMES.name].shape
        size = max(MIN_CHUNK_EVENTS, CHUNK_EVENTS // max(1, rows))
        size = min(size, self._max_events() or size)
        if steps <= size:
            return self._runner.infer(feed)
        longest = int((feed[ROW_TIMES.name] > 0).sum(1).max())
        state = {tensor.name: feed[tensor.name] for tensor in STATE}
        outputs: Arrays = {}
        for start in range(0, max(1, longest), size):
            chunk = {name: np.ascontiguousarray(feed[name][:, start : start + size]) for name in _EVENTS}
            outputs = self._runner.infer(state | chunk)
            state = {tensor.name: outputs[next_name(tensor.name)] for tensor in STATE}
        return outputs


def open_runner(
    model: Model,
    graph: Path,
    *,
    peers_idle: Callable[[], bool] = lambda: True,
    cuda: bool = False,
    threads: int | None = None,
    live: Live | None = None,
    table: ItemTable | None = None,
) -> Runner:
    """The runner that serves `model`, not yet open.

    Args:
        peers_idle: whether a ranking may take every core.
        cuda: run it on the GPU.
        threads: of long runs of the encoder; as many as there are cores by default.
        live: see `OnnxRunner`.
        table: of a graph that is given item vectors.
    """

    def looking_up(runner: Runner) -> Runner:
        return with_lookup(runner, model.name, table)

    if cuda:
        runner = OnnxRunner(graph, cuda=True, live=live)
        if model == ENCODER:
            return ChunkedEncoder(looking_up(runner), max_events=lambda: runner.max_events)
        return looking_up(runner)
    if model == ENCODER:
        short, long = OnnxRunner(graph, threads=1, live=live), OnnxRunner(graph, threads=threads, live=live)
        router = SizeRouter(model, short=looking_up(short), long=looking_up(long), short_elements=SHORT_EVENTS)
        return ChunkedEncoder(router, max_events=lambda: long.max_events)
    if model == RERANKER:
        shard = looking_up(OnnxRunner(graph, threads=1, live=live))
        return ShardedRunner(model, shard, min_elements=SHARD_CANDIDATES, peers_idle=peers_idle)
    return looking_up(OnnxRunner(graph, live=live))
