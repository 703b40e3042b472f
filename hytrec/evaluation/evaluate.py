"""Evaluate a model by the protocol of `hytrec.data.split`: the retriever alone, and followed by the reranker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hytrec.data.histories import History, Int64Array, padded_rows
from hytrec.data.split import Evaluation, EvaluationBatch
from hytrec.evaluation.metrics import DEFAULT_KS, RankingMetrics
from hytrec.modeling.delta_rule import chunk_by_chunk
from hytrec.modeling.model import HyTRec, Readout, UserFeatures

__all__ = ["RERANKER", "RETRIEVER", "by_length", "evaluate", "ranked", "read_histories_at"]

RETRIEVER = "retriever"
RERANKER = "retrieve-then-rerank"
_BATCH_EVENTS = 8_192
_BATCH_USERS = 256
_STRETCH_EVENTS = 8_192
GROUP = 16
"""Users whose candidates are scored together."""


@dataclass(frozen=True, kw_only=True)
class _Batch:
    item_rows: Tensor
    behavior_rows: Tensor
    times: Tensor


def padded(histories: Sequence[History], device: torch.device | str = "cpu") -> _Batch:
    """Histories as (B, T) tensors, padded with 0 at the end; T is at least 1."""

    def stacked(rows: Sequence[Int64Array]) -> Tensor:
        return torch.from_numpy(padded_rows(rows, width=1)).to(device)

    return _Batch(
        item_rows=stacked([history.item_rows for history in histories]),
        behavior_rows=stacked([history.behavior_rows for history in histories]),
        times=stacked([history.times for history in histories]),
    )


def read_histories_at(model: HyTRec, histories: Sequence[History], now_s: Int64Array) -> Readout:
    """Encode whole histories and read the users at `now_s` (B,) int64: what the exported graphs compute, in PyTorch.

    In stretches that hand the state on, so that memory does not grow with the longest history.
    """
    device = model.norm.weight.device
    batch = padded(histories, device)
    state = model.empty_state(len(histories))
    last_memory = state.memory[:, -1]
    for start in range(0, batch.times.shape[1], _STRETCH_EVENTS):
        stretch = slice(start, start + _STRETCH_EVENTS)
        state, last_memory = model.encode(
            state,
            batch.item_rows[:, stretch],
            batch.behavior_rows[:, stretch],
            batch.times[:, stretch],
            chunk_by_chunk,
        )
    return model.read(UserFeatures.of(state, last_memory, torch.from_numpy(now_s).unsqueeze(1).to(device)))


def evaluate(
    model: HyTRec,
    part: Evaluation,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    rerank: bool = True,
    progress: Callable[[int], object] | None = None,
) -> dict[str, dict[str, float]]:
    """Metrics of the retriever over the catalogue and, with `rerank`, of its list reranked; see `ranked`.

    Raises:
        EvaluationError: no user can be evaluated, or the model has diverged.
    """
    found = ranked(model, part, ks=ks, rerank=rerank, progress=progress)
    return {name: metrics.result() for name, metrics in found.items()}


def ranked(
    model: HyTRec,
    part: Evaluation,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    rerank: bool = True,
    progress: Callable[[int], object] | None = None,
) -> dict[str, RankingMetrics]:
    """Every user's rank by the retriever and, with `rerank`, in its list reranked; users in the order `by_length`.

    Args:
        progress: called with the number of users of each finished batch.

    Raises:
        EvaluationError: the model has diverged.
    """
    retriever, reranker = RankingMetrics(ks), RankingMetrics(ks)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in batches_by_length(part):
            readout = read_histories_at(model, batch.histories, batch.now)
            retriever.add(model.retrieve_scores(readout.user)[:, 1:-1].cpu().numpy(), batch.targets, batch.seen)
            if rerank:
                rows = model.retrieve(readout, torch.from_numpy(batch.seen).to(readout.user.device))
                reranker.add_lists(in_order(rows, reranked(model, readout, rows)).cpu().numpy(), batch.targets)
            if progress:
                progress(len(batch.histories))
    model.train(was_training)
    return {RETRIEVER: retriever, RERANKER: reranker} if rerank else {RETRIEVER: retriever}


def reranked(model: HyTRec, readout: Readout, rows: Tensor) -> Tensor:
    """Scores of rows (B, R) as of `HyTRec.rerank`, a few users at a time: thrice as fast, for a CPU's cache."""
    parts = zip(groups_of(readout), rows.split(GROUP), strict=True)
    return torch.cat([model.rerank(part, own) for part, own in parts])


def groups_of(readout: Readout) -> Iterator[Readout]:
    """The users of a readout, `GROUP` at a time."""
    for start in range(0, readout.user.shape[0], GROUP):
        yield Readout(**{name: tensor[start : start + GROUP] for name, tensor in vars(readout).items()})


def in_order(rows: Tensor, scores: Tensor) -> Tensor:
    """Rows (B, R) by score (B, R), best first; equal scores keep their order, empty places (0) stay last."""
    best_first = scores.masked_fill(rows == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return rows.gather(1, best_first)


def by_length(part: Evaluation) -> Int64Array:
    """Indices of an evaluation's users, those of short histories first: (n,) int64."""
    return np.argsort(part.events - part.histories.offsets[part.users], kind="stable")


def batches_by_length(part: Evaluation) -> Iterator[EvaluationBatch]:
    """An evaluation's users in batches of similar history length, in the order `by_length`."""
    order = by_length(part)
    lengths = part.events - part.histories.offsets[part.users]
    start = 0
    while start < order.size:
        stop = start + 1
        while (
            stop < order.size and stop - start < _BATCH_USERS and lengths[order[stop]] * (stop - start) < _BATCH_EVENTS
        ):
            stop += 1
        yield part.batch(order[start:stop])
        start = stop
