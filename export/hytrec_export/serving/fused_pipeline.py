"""All steps of all endpoints in one process, wired as the ensembles are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Ensemble, Step, next_name
from hytrec.signature import (
    APPEND,
    CANDIDATE_KEYS,
    ENCODER,
    ITEM_ROWS,
    LAST_MEMORY,
    MEMORY,
    RANK,
    RECOMMEND,
    RERANKER,
    RETRIEVER,
    RETURNED_KEYS,
    RETURNED_SCORES,
    ROW_TIMES,
    SCORES,
    STATE,
    STATE_LOAD,
    STATE_SAVE,
)
from hytrec_export.errors import InputError
from hytrec_export.serving.call_context import GIVE_UP_AT
from hytrec_export.serving.load_step import APPEND_ONLY, StepResult
from hytrec_export.serving.validation import Inputs

RunStep: TypeAlias = Callable[[Sequence[Inputs]], list[StepResult]]
"""Inputs of a step's model -> its outputs, one result per request, in order."""
RunAppends: TypeAlias = Callable[[Sequence[Inputs]], list[StepResult | None]]
"""The same; None for a request that takes the other steps."""

_APPEND_ONLY = {APPEND_ONLY: np.ones((1, 1), bool)}
_MODELS = (STATE_LOAD, ENCODER, RETRIEVER, RERANKER, STATE_SAVE)
_STEPS = {endpoint.name: {step.model.name: step for step in endpoint.steps} for endpoint in (APPEND, RANK, RECOMMEND)}


@dataclass(kw_only=True)
class PipelineRequest:
    """One request.

    Args:
        endpoint: whose steps it takes.
        inputs: its public inputs, (1, n) each, and `GIVE_UP_AT`.
    """

    endpoint: Ensemble
    inputs: Inputs


def endpoint_of(requested_outputs: frozenset[str]) -> Ensemble:
    """The endpoint that has the requested outputs: only one has scores, only one items with scores."""
    if requested_outputs & {RETURNED_KEYS.name, RETURNED_SCORES.name}:
        return RECOMMEND
    return RANK if SCORES.name in requested_outputs else APPEND


class FusedPipeline:
    """Runs server batches of any mix of endpoints; each step runs once, for all requests that take it.

    An append runs the encoder only where a snapshot is due: its events are the truth, and the state can wait. Nor does
    a ranking whose state is that of the last event: the encoder would change no number of it.

    Args:
        steps: by model name; those of the endpoints that requests come for.
        append: tried first of appends: the outputs of those that need no other step, and None for the others.
        working: entered while the steps run, but not for `append`.
    """

    def __init__(
        self,
        steps: Mapping[str, RunStep],
        *,
        append: RunAppends | None = None,
        working: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._steps = [(model.name, steps[model.name]) for model in _MODELS if model.name in steps]
        self._append = append
        self._working = working

    def run(self, batch: Sequence[PipelineRequest]) -> list[StepResult]:
        """Public outputs of every request, in order; a failed request skips the remaining steps.

        For `hytrec_rank`: user_id (1, 1) bytes, item_keys (1, T) int64 or bytes, times (1, T) int64,
        candidate_keys (1, N) -> scores (1, N) float32, event_count (1, 1) int64, applied (1, 1) bool,
        model_fingerprint (1, 16) uint8, state_status (1, 1) int64. See `hytrec.signature.FUSED`.
        """
        in_flight = [_InFlight(request) for request in batch]
        if self._append:
            _take(self._append, [request for request in in_flight if request.appends])
        if left := [request for request in in_flight if not request.done]:
            with self._working():
                self._run(left)
        return [request.result for request in in_flight]

    def _run(self, in_flight: Sequence[_InFlight]) -> None:
        for name, run_step in self._steps:
            taking = [request for request in in_flight if request.takes(name)]
            if taking:
                results = run_step([request.inputs_of(name) for request in taking])
                for request, result in zip(taking, results, strict=True):
                    request.absorb(name, result)


def _take(append: RunAppends, appends: Sequence[_InFlight]) -> None:
    """Finish the appends that need no other step."""
    results = append([request.inputs_of(STATE_LOAD.name) for request in appends]) if appends else []
    for request, result in zip(appends, results, strict=True):
        if result is not None:
            request.finish(result)


class _InFlight:
    """A request between two steps: the tensors made so far, by their names in the ensemble."""

    def __init__(self, request: PipelineRequest) -> None:
        self._steps: Mapping[str, Step] = _STEPS[request.endpoint.name]
        self._tensors: dict[str, NDArray[Any]] = dict(request.inputs)
        self._append_only = request.endpoint is APPEND
        self._encodes = True
        wrong = _wrong_endpoint(request)
        self.done = wrong is not None
        self.result: StepResult = wrong or {}

    @property
    def appends(self) -> bool:
        return self._append_only and not self.done

    def finish(self, result: StepResult) -> None:
        self.result, self.done = result, True

    def takes(self, name: str) -> bool:
        skipped = name == ENCODER.name and not self._encodes
        return name in self._steps and not skipped and not self.done

    def inputs_of(self, name: str) -> Inputs:
        wiring, tensors = self._steps[name].inputs, self._tensors
        inputs = {inner: tensors[outer] for inner, outer in wiring.items() if outer in tensors}
        if name == STATE_LOAD.name:
            inputs |= {GIVE_UP_AT: tensors[GIVE_UP_AT]} if GIVE_UP_AT in tensors else {}
            inputs |= _APPEND_ONLY if self._append_only else {}
        return inputs

    def absorb(self, name: str, result: StepResult) -> None:
        self.result, self.done = result, isinstance(result, Exception)
        if name == STATE_LOAD.name and not isinstance(result, Exception):
            self._encodes = ITEM_ROWS.name in result and np.count_nonzero(result[ROW_TIMES.name]) > 0
            if ITEM_ROWS.name in result and not self._encodes:
                self._pass_on(ENCODER.name, _unchanged(result))
        if not isinstance(result, Exception):
            self._pass_on(name, result)

    def _pass_on(self, name: str, outputs: Mapping[str, NDArray[Any]]) -> None:
        wiring = self._steps[name].outputs
        self._tensors.update({outer: outputs[inner] for inner, outer in wiring.items() if inner in outputs})


def _unchanged(loaded: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the encoder makes of a state and padding alone (docs/DESIGN.md, section 3)."""
    state = {next_name(tensor.name): loaded[tensor.name] for tensor in STATE}
    return state | {LAST_MEMORY.name: loaded[MEMORY.name][:, -1]}


def _wrong_endpoint(request: PipelineRequest) -> InputError | None:
    """The error of a request that did not come through its endpoint."""
    given, endpoint = CANDIDATE_KEYS.name in request.inputs, request.endpoint
    if given == (endpoint is RANK):
        return None
    if given:
        return InputError(f"candidate_keys is given, but {endpoint.name} takes none; send it to {RANK.name}")
    return InputError(f"candidate_keys is missing; {RANK.name} needs it, {APPEND.name} and {RECOMMEND.name} do not")
