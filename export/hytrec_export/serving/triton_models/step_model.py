"""What the python models have in common: a step is opened, runs every server batch, and is closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

from hytrec.contract import Model
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.triton_models.responses import drop_shared_tensors, respond, tensors_of
from hytrec_export.serving.triton_models.startup import graph_of, live_tables_of, open_graph, starting
from hytrec_export.serving.validation import Inputs

Args: TypeAlias = dict[str, str]
"""What Triton gives to `initialize`."""
Execute: TypeAlias = Callable[[Sequence[Any]], list[Any]]
"""Triton requests of one server batch -> one response per request, in order."""


class StepModel(ABC):
    """A model of Triton's python backend."""

    @abstractmethod
    def open(self, args: Args, opened: ExitStack) -> Execute:
        """Open the step; what `opened` holds is closed when the server unloads the model."""

    @starting
    def initialize(self, args: Args) -> None:
        """Open the step."""
        self._opened = ExitStack()
        self._execute = self.open(args, self._opened)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run one server batch."""
        return self._execute(requests)

    def finalize(self) -> None:
        """Close what was opened, and let go of what is Triton's while it is there: later it would crash the process."""
        self._opened.close()
        vars(self).pop("_execute", None)
        drop_shared_tensors()


class GraphModel(StepModel):
    """One graph, run by onnxruntime."""

    model: Model

    def open(self, args: Args, opened: ExitStack) -> Execute:  # noqa: ARG002 - a graph is open as long as the process
        """Open the graph."""
        graph = open_graph(graph_of(args), self.model, live=live_tables_of(args, self.model))
        return responding(graph.run, self.model)


def responding(run: Callable[[Sequence[Inputs]], list[StepResult]], model: Model) -> Execute:
    """Responds to each batch with what a step of `model` makes of its tensors."""
    return partial(respond, run=run, model=model, read=tensors_of)
