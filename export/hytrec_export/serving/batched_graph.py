"""Runs one ONNX graph on Triton batches: groups requests by length, pads, stacks, runs, splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Model
from hytrec_export.errors import GraphError, InputError
from hytrec_export.runtime.batching import Group, plan_groups
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.validation import Inputs

Infer: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""Runs a graph once: all inputs by name -> all outputs by name."""


class BatchedGraph:
    """Executes one Triton batch in the cheapest number of graph runs: groups by length, pads, stacks, splits.

    Args:
        run_overhead: cost of one more run, in elements of the dynamic axis.
        max_elements: maximum elements of the dynamic axis, over all rows, of one run; it bounds the memory of a run.
    """

    def __init__(self, *, model: Model, infer: Infer, run_overhead: int, max_elements: int) -> None:
        self._model = model
        self._infer = infer
        self._run_overhead = run_overhead
        self._max_elements = max_elements
        self._padded = frozenset(tensor.name for tensor in model.inputs if tensor.dynamic)
        self._trimmed = frozenset(tensor.name for tensor in model.outputs if tensor.dynamic)

    def run(self, batch: Sequence[Inputs]) -> list[StepResult]:
        """Inputs of the model -> its outputs, one result per request, in order.

        Inputs have batch axis 1 and are padded to the longest of their run; outputs are cut to the request's own
        length. For the reranker (`hytrec.signature.RERANKER`): last_memory (1, H, K, V) float32, window_items (1, W)
        int64, ..., candidate_rows (1, N) int64 -> raw_scores (1, N) float32.
        """
        results: list[StepResult | None] = [None] * len(batch)
        usable = []
        for position, inputs in enumerate(batch):
            try:
                usable.append((position, self._length(inputs)))
            except InputError as error:
                results[position] = error
        lengths_of_usable = [length for _, length in usable]
        for group in plan_groups(lengths_of_usable, run_overhead=self._run_overhead, max_elements=self._max_elements):
            positions, lengths = zip(*(usable[member] for member in group.members), strict=True)
            group_results = self._run_group([batch[position] for position in positions], lengths, group)
            for position, result in zip(positions, group_results, strict=True):
                results[position] = result
        return [result for result in results if result is not None]

    def _length(self, inputs: Inputs) -> int:
        """The request's size on the dynamic axis."""
        for name, values in inputs.items():
            if len(values) != 1:
                raise InputError(
                    f"{name} has batch dimension {len(values)}; it must be 1, the server forms the batches"
                )
        lengths = {name: inputs[name].shape[1] for name in self._model.input_names() if name in self._padded}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            given = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(f"lengths of {self._model.name} are {given}; they must be equal and at least 1")
        return next(iter(lengths.values()))

    def _run_group(self, requests: Sequence[Inputs], lengths: Sequence[int], group: Group) -> list[StepResult]:
        """Run one group; if that fails, each of its requests by itself, so that only the faulty ones fail."""
        try:
            return self._run_together(requests, lengths, group.length)
        except Exception as error:  # noqa: BLE001  onnxruntime's errors have no common base but Exception
            if len(requests) > 1:
                singles = zip(requests, lengths, strict=True)
                return [result for request, length in singles for result in self._run_group([request], [length], group)]
            reason = " ".join(str(error).split())
            failure = GraphError(f"{self._model.name} could not run its graph: {reason}")
            failure.__cause__ = error
            return [failure]

    def _run_together(self, requests: Sequence[Inputs], lengths: Sequence[int], length: int) -> list[StepResult]:
        feed = {name: self._stacked(requests, name, length) for name in self._model.input_names()}
        outputs = self._infer(feed)
        return [
            {name: self._own_part(outputs[name], name, row, own) for name in self._model.output_names()}
            for row, own in enumerate(lengths)
        ]

    def _stacked(self, requests: Sequence[Inputs], name: str, length: int) -> NDArray[Any]:
        parts = [request[name] for request in requests]
        if name not in self._padded or all(part.shape[1] == length for part in parts):
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        stacked = np.zeros((len(parts), length), parts[0].dtype)
        for row, part in enumerate(parts):
            stacked[row, : part.shape[1]] = part[0]
        return stacked

    def _own_part(self, output: NDArray[Any], name: str, row: int, length: int) -> NDArray[Any]:
        own = output[row : row + 1]
        return own[:, :length] if name in self._trimmed else own
