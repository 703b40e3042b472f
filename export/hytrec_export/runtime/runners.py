"""Runners: one interface to run a graph with numpy arrays, whatever the runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hytrec.signature import ROW_TIMES
from hytrec_export.errors import GraphError, RepositoryError
from hytrec_export.optional import require

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, NDArray[Any]]
"""Tensors by their names in `hytrec.signature`, batch axis first."""
Live = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""Inputs of a run -> tables to run it with, by the names of initializers that are inputs too."""

MAX_EVENTS = "max_events"
"""Metadata of a chunked graph: the largest T that the depth of its scan is good for; more would come out wrong."""
MAX_CORES = 8
SPIN_US = "100"
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS = 3


def cores() -> int:
    """Cores that a graph may use."""
    return min(MAX_CORES, len(os.sched_getaffinity(0)))


class Runner(Protocol):
    """A model that can be run; open it with `with`."""

    def __enter__(self) -> Self:
        """Load the model."""
        ...

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        ...

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs by name -> all outputs by name."""
        ...


class RunnerAround:
    """A runner that runs another one; it is open as long as that is.

    Args:
        runner: the other one.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __enter__(self) -> Self:
        """Load the model; raises what the runner raises."""
        self._runner.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        """Let go of it."""
        self._runner.__exit__(*raised)


class TorchRunner:
    """PyTorch, eager.

    Args:
        module: takes and returns tensors in the order of the names.
    """

    def __init__(self, module: nn.Module, *, input_names: Sequence[str], output_names: Sequence[str]) -> None:
        self._module = module
        self._input_names = tuple(input_names)
        self._output_names = tuple(output_names)
        self._torch: Any = None

    def __enter__(self) -> Self:
        """Raises: MissingPackageError: torch is not installed."""
        self._torch = require("torch", extra="export")
        self._module.eval()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to let go of: the module is the caller's."""

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs by name -> all outputs by name."""
        tensors = [self._torch.from_numpy(np.ascontiguousarray(feed[name])) for name in self._input_names]
        with self._torch.inference_mode():
            outputs = self._module(*tensors)
        return {name: output.numpy() for name, output in zip(self._output_names, outputs, strict=True)}


class OnnxRunner:
    """onnxruntime. On the CPU its intra-op threads spin (at most 100 us) during a run and sleep between runs.

    Args:
        graph: the .onnx file.
        threads: intra-op threads; as many as there are cores by default.
        cuda: run on the GPU, in IEEE float32, what onnxruntime has an operator for there.
        live: gives tables in place of those in the graph.
    """

    def __init__(
        self,
        graph: Path,
        *,
        threads: int | None = None,
        cuda: bool = False,
        live: Live | None = None,
    ) -> None:
        self._graph = graph
        self._providers = [(CUDA_PROVIDER, {"use_tf32": "0"}), CPU_PROVIDER] if cuda else [CPU_PROVIDER]
        self._threads = threads or cores()
        self._live = live
        self._session: Any = None
        self.output_names: tuple[str, ...] = ()
        self.max_events: int | None = None
        """Of an open chunked graph: its largest T."""

    def __enter__(self) -> Self:
        """Load the graph.

        Raises:
            RepositoryError: the file is missing, or onnxruntime refuses it.
            MissingPackageError: onnxruntime is not installed.
        """
        onnxruntime: Any = require("onnxruntime", extra="embedded")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = _ERRORS  # else it warns of tables that are inputs too (`exporters.large_products`)
        # Waking a thread takes longer than most operators; the spin is short, as other models share the cores.
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not self._graph.is_file():
            raise RepositoryError(f"{self._graph} is missing; build the repository again")
        try:
            self._session = onnxruntime.InferenceSession(self._graph, options, providers=self._providers)
        except Exception as error:  # onnxruntime's errors have no other common base
            reason = " ".join(str(error).split())
            raise RepositoryError(
                f"onnxruntime refuses {self._graph} ({reason}); build the repository again"
            ) from error
        self.output_names = tuple(output.name for output in self._session.get_outputs())
        limit = self._session.get_modelmeta().custom_metadata_map.get(MAX_EVENTS)
        self.max_events = int(limit) if limit else None
        return self

    def __exit__(self, *_: object) -> None:
        """Free the graph."""
        self._session = None

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs by name -> all outputs by name.

        Raises:
            GraphError: the events are more than a chunked graph was built for.
        """
        events = feed[ROW_TIMES.name].shape[1] if ROW_TIMES.name in feed else 0
        if self.max_events is not None and events > self.max_events:
            raise GraphError(
                f"{self._graph} is built for runs of up to {self.max_events} events, and {events} are given; "
                f"send fewer, or build again with --max-events {events}"
            )
        whole = dict(feed) if self._live is None else {**feed, **self._live(feed)}
        return dict(zip(self.output_names, self._session.run(None, whole), strict=True))
