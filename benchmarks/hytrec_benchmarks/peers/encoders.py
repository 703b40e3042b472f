"""The trained model in PyTorch, the whole history encoded again for every query."""

from __future__ import annotations

import math
import os
import time
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hytrec.contract import Sizes
from hytrec.data.histories import History, Int64Array
from hytrec.modeling.delta_rule import DeltaRule, chunk_by_chunk
from hytrec.modeling.model import HyTRec
from hytrec.signature import ENCODER, RERANKER
from hytrec_benchmarks.peers.queries import Query, Scorer, score_in_groups
from hytrec_export.exporters.wrapper import split
from hytrec_export.runtime.model_chain import ModelChain, empty_state, padded
from hytrec_export.runtime.runners import TorchRunner

TRIES, TRIED_EVENTS = 5, 1_000
"""How the number of threads is chosen."""


def scorer_of(chain: ModelChain, *, sizes: Sizes) -> Scorer:
    """Encodes the histories and reranks the candidates of queries; `chain` has an open encoder and reranker."""

    def run(batch: list[Query], length: int, candidates: Int64Array) -> NDArray[np.float32]:
        events = padded([query.history for query in batch], length=length)
        users = chain.encode(empty_state(sizes, len(batch)), events)
        return chain.rerank(users, np.array([[query.now_s] for query in batch], np.int64), candidates)

    return partial(score_in_groups, run)


def encoding_scorer(model: HyTRec, *, sizes: Sizes, compiled: bool = False) -> Scorer:
    """A scorer open for as long as the process lives, with the number of threads that is fastest here and now.

    Args:
        compiled: compile the encoder and the reranker for symbolic sizes, now and not during a request.
    """
    modules: dict[str, nn.Module] = split(model, delta_rule=_uncompiled() if compiled else chunk_by_chunk)
    runners = {}
    for served in (ENCODER, RERANKER):
        module = modules[served.name].eval()
        if compiled:
            module = torch.compile(module, dynamic=True)  # type: ignore[assignment]
        runner = TorchRunner(module, input_names=served.input_names(), output_names=served.output_names())
        runners[served.name] = ExitStack().enter_context(runner)
    scorer = scorer_of(ModelChain(runners, sizes=sizes), sizes=sizes)
    if compiled:
        for count, events in WARMING:
            scorer([_any_question(events)] * count)
    torch.set_num_threads(_fastest_threads(scorer))
    return scorer


def _fastest_threads(scorer: Scorer) -> int:
    """All cores, or one where others keep them busy."""
    taken_s: dict[int, float] = {}
    for threads in sorted({1, len(os.sched_getaffinity(0))}) * TRIES:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        scorer([_any_question(TRIED_EVENTS)])
        taken_s[threads] = min(taken_s.get(threads, math.inf), time.perf_counter() - start)
    return min(taken_s, key=taken_s.__getitem__)


WARMING = ((1, 50), (1, 700), (2, 50), (3, 90))
"""Questions and events that make dynamo meet every kind of size: one and many, short and long."""


def _any_question(events: int) -> Query:
    rows = np.ones(events, np.int64)
    history = History(item_rows=rows, behavior_rows=rows * 0, times=np.arange(1, events + 1) * 1_000)
    return Query(history=history, candidates=np.ones(500, np.int64), now_s=events * 2_000)


def _uncompiled() -> DeltaRule:
    """The loop over chunks, left to eager: dynamo would unroll it, and compile again for every number of chunks."""
    left: DeltaRule = torch.compiler.disable(chunk_by_chunk)
    return left
