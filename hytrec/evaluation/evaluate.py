"""A model measured by the protocol of `hytrec.data.split`: the retriever alone, and followed by the reranker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hytrec.data.histories import History, Int64Array
from hytrec.data.split import Evaluation
from hytrec.evaluation.metrics import DEFAULT_KS, RankingMetrics
from hytrec.modeling.delta_rule import chunk_by_chunk
from hytrec.modeling.model import HyTRec, Readout, UserFeatures

__all__ = ["RERANKER", "RETRIEVER", "evaluate", "read_histories_at", "weigh_reranker"]

RETRIEVER = "retriever"
RERANKER = "retrieve-then-rerank"
RERANK_WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_BATCH_EVENTS = 8_192
_BATCH_USERS = 256


@dataclass(frozen=True, kw_only=True)
class _Batch:
    item_rows: Tensor
    behavior_rows: Tensor
    times: Tensor


def padded(histories: Sequence[History]) -> _Batch:
    """Histories side by side, (B, T) each, padded with 0 at the end; T is at least 1."""
    steps = max([1, *map(len, histories)])

    def stacked(values: Sequence[Int64Array]) -> Tensor:
        rows = np.zeros((len(values), steps), np.int64)
        for row, value in zip(rows, values, strict=True):
            row[: value.size] = value
        return torch.from_numpy(rows)

    return _Batch(
        item_rows=stacked([history.item_rows for history in histories]),
        behavior_rows=stacked([history.behavior_rows for history in histories]),
        times=stacked([history.times for history in histories]),
    )


def read_histories_at(model: HyTRec, histories: Sequence[History], now_s: Int64Array) -> Readout:
    """Encode whole histories and read them at `now_s` (B,): the exported path, in PyTorch."""
    batch = padded(histories)
    state, last_memory = model.encode(
        model.empty_state(len(histories)),
        batch.item_rows,
        batch.behavior_rows,
        batch.times,
        chunk_by_chunk,
    )
    return model.read(UserFeatures.of(state, last_memory, torch.from_numpy(now_s).unsqueeze(1)))


def evaluate(
    model: HyTRec,
    part: Evaluation,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    rerank: bool = True,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Metrics of the retriever over the catalogue and, if asked for, of its list reranked.

    Args:
        progress: told how many users are done, batch by batch.

    Raises:
        EvaluationError: nobody can be evaluated, or the model has diverged.
    """
    retriever, reranker = RankingMetrics(ks), RankingMetrics(ks)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for users in batches_by_length(part):
            targets = part.targets[users]
            seen = padded_rows([part.seen(user) for user in users])
            readout = read_histories_at(model, [part.history(user) for user in users], part.now[users])
            retriever.add(model.retrieve_scores(readout.user)[:, 1:-1].numpy(), targets, seen)
            if rerank:
                rows = model.retrieve(readout, torch.from_numpy(seen))
                reranker.add_lists(reranked(model, readout, rows).numpy(), targets)
            if progress:
                progress(len(users))
    model.train(was_training)
    result = {RETRIEVER: retriever.result()}
    return result | {RERANKER: reranker.result()} if rerank else result


def reranked(model: HyTRec, readout: Readout, rows: Tensor) -> Tensor:
    """Retrieved rows (B, R) in the order of the reranker's scores; empty places (0) stay last."""
    return in_order(rows, model.rerank(readout, rows))


def in_order(rows: Tensor, scores: Tensor) -> Tensor:
    """Rows (B, R) by score (B, R), best first; equal scores keep their order, empty places (0) stay last."""
    best_first = scores.masked_fill(rows == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return rows.gather(1, best_first)


def weigh_reranker(model: HyTRec, validation: Evaluation) -> float:
    """Scale the reranker's correction of the retriever by the weight in 0..1 with the best NDCG@10, in place.

    At weight 0 retrieve-then-rerank is the retriever itself, so that it never ends below it on the validation part.
    """
    metrics = {weight: RankingMetrics((10,)) for weight in RERANK_WEIGHTS}
    with torch.inference_mode():
        for users in batches_by_length(validation):
            targets, seen = validation.targets[users], padded_rows([validation.seen(user) for user in users])
            readout = read_histories_at(model, [validation.history(user) for user in users], validation.now[users])
            rows = model.retrieve(readout, torch.from_numpy(seen))
            scores = model.rerank(readout, rows)
            plain = model.retrieve_scores(readout.user).gather(1, rows)
            for weight, metric in metrics.items():
                metric.add_lists(in_order(rows, torch.lerp(plain, scores, weight)).numpy(), targets)
    best = max(RERANK_WEIGHTS, key=lambda weight: metrics[weight].result()["ndcg@10"])
    model.reranker.weigh(best)
    return best


def batches_by_length(part: Evaluation) -> Iterator[Int64Array]:
    """Users of an evaluation, those with histories of like length together."""
    lengths = part.events - part.histories.offsets[part.users]
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < order.size:
        stop = start + 1
        while (
            stop < order.size and stop - start < _BATCH_USERS and lengths[order[stop]] * (stop - start) < _BATCH_EVENTS
        ):
            stop += 1
        yield order[start:stop]
        start = stop


def padded_rows(rows: Sequence[Int64Array]) -> Int64Array:
    """(B, X) rows side by side, padded with 0."""
    result = np.zeros((len(rows), max(row.size for row in rows)), np.int64)
    for line, row in zip(result, rows, strict=True):
        line[: row.size] = row
    return result
