"""Softmax attention over a user's last events (`peers.sasrec`) as a graph in onnxruntime."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.config import ModelConfig
from hytrec.contract import DType, Model
from hytrec.contract import Tensor as ServedTensor
from hytrec.data.histories import Int64Array, padded_rows
from hytrec.signature import CANDIDATE_ROWS, ITEM_ROWS, RAW_SCORES
from hytrec_benchmarks.peers.queries import Query, Scorer, score_in_groups
from hytrec_benchmarks.peers.sasrec import LAST_EVENTS, new_sasrec
from hytrec_export.exporters.onnx_graph import export_graph
from hytrec_export.runtime.model_chain import split_at
from hytrec_export.runtime.runners import OnnxRunner

GRAPH_FILE = "model.onnx"
OPSET = 23

COUNT = ServedTensor(name="count", dtype=DType.INT64, axes=(1,), doc="events of the user", optional=False)
SASREC = Model(
    name="sasrec",
    inputs=(ITEM_ROWS, COUNT, CANDIDATE_ROWS),
    outputs=(RAW_SCORES,),
    doc="scores of candidates after a history",
)


def export_sasrec(config: ModelConfig, folder: Path) -> None:
    """Write the graph."""
    export_graph(new_sasrec(config), folder / GRAPH_FILE, model=SASREC, sizes=config.sizes(), opset=OPSET, metadata={})


def softmax_scorer(folder: Path) -> Scorer:
    """Runs the graph in a folder, open for as long as the process lives."""
    runner = ExitStack().enter_context(OnnxRunner(folder / GRAPH_FILE))

    def run(batch: list[Query], length: int, candidates: Int64Array) -> NDArray[np.float32]:
        rows = [query.history.item_rows for query in batch]
        counts = np.array([[own.size] for own in rows], np.int64)
        feed = {ITEM_ROWS: padded_rows(rows, width=length), COUNT: counts, CANDIDATE_ROWS: candidates}
        return runner.infer({tensor.name: values for tensor, values in feed.items()})[RAW_SCORES.name]

    def last_events(query: Query) -> Query:
        return replace(query, history=split_at(query.history, [max(0, len(query.history) - LAST_EVENTS)])[1])

    return lambda queries: score_in_groups(run, [last_events(query) for query in queries])
