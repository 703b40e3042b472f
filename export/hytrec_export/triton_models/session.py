"""An onnxruntime session behind a graph runner, as the three neural models use it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray

from hytrec.signature import Model
from hytrec_export.errors import RepositoryError
from hytrec_export.graph_runner import GraphRunner
from hytrec_export.optional import require

GRAPH_FILE = "model.onnx"
MAX_THREADS = 8
MAX_SLOTS = 1 << 16


class Session:
    """One graph on the CPU. Threads do not spin between calls: other models share the cores."""

    def __init__(self, path: Path) -> None:
        """Raises: RepositoryError: the graph is missing or onnxruntime refuses it."""
        onnxruntime: Any = require("onnxruntime", extra="embedded")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not path.is_file():
            raise RepositoryError(f"{path} is missing; build the repository again with: hytrec-export build RUN")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = " ".join(str(error).split())
            raise RepositoryError(f"onnxruntime refuses {path} ({reason}); build the repository again") from error

    def __call__(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the graph once."""
        return cast("list[NDArray[Any]]", self._session.run(list(names), dict(feed)))


def open_runner(folder: Path, model: Model, *, run_cost: int) -> GraphRunner:
    """The runner of the graph that lies in a model's folder.

    Raises:
        RepositoryError: the graph is missing or onnxruntime refuses it.
    """
    graph = Session(folder / GRAPH_FILE)
    return GraphRunner(model=model, graph=graph, run_cost=run_cost, max_slots=MAX_SLOTS)
