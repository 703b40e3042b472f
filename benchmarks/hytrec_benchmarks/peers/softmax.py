"""Softmax attention over a user's last events (`peers.sasrec`) as a graph in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.config import ModelConfig
from hytrec.contract import DType, Model
from hytrec.contract import Tensor as ServedTensor
from hytrec.data.histories import Int64Array
from hytrec.signature import CANDIDATE_ROWS, ITEM_ROWS, RAW_SCORES
from hytrec_benchmarks.peers.queries import Query
from hytrec_benchmarks.peers.sasrec import LAST_EVENTS, new_sasrec
from hytrec_export.exporters.onnx_graph import export_graph
from hytrec_export.runtime.batching import plan_groups
from hytrec_export.runtime.runners import OnnxRunner, Runner

GRAPH_FILE = "model.onnx"
OPSET = 23
RUN_OVERHEAD = 64
MAX_ELEMENTS = 4_096

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


class SoftmaxScorer:
    """Runs the graph in a folder, open for as long as the process lives; histories of about one length together."""

    def __init__(self, folder: Path) -> None:
        self._runner: Runner = ExitStack().enter_context(OnnxRunner(folder / GRAPH_FILE))

    def score(self, queries: Sequence[Query]) -> list[NDArray[np.float32]]:
        """See `Scorer`."""
        scores: dict[int, NDArray[np.float32]] = {}
        histories = [query.history.item_rows[-LAST_EVENTS:] for query in queries]
        lengths = [max(1, rows.size) for rows in histories]
        for group in plan_groups(lengths, run_overhead=RUN_OVERHEAD, max_elements=MAX_ELEMENTS):
            batch = [queries[member] for member in group.members]
            feed = {
                ITEM_ROWS.name: _stacked([histories[member] for member in group.members], group.length),
                COUNT.name: np.array([[histories[member].size] for member in group.members], np.int64),
                CANDIDATE_ROWS.name: _stacked(
                    [query.candidates for query in batch], max(query.candidates.size for query in batch)
                ),
            }
            found = self._runner.infer(feed)[RAW_SCORES.name]
            for member, query, row in zip(group.members, batch, found, strict=True):
                scores[member] = row[: query.candidates.size]
        return [scores[position] for position in range(len(queries))]


def _stacked(rows: Sequence[Int64Array], length: int) -> Int64Array:
    stacked = np.zeros((len(rows), length), np.int64)
    for line, values in zip(stacked, rows, strict=True):
        line[: values.size] = values
    return stacked
