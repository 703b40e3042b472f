"""Every step of the endpoints' chains in one process: a server batch goes through them all, wired as the ensembles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from hytrec.contract import Ensemble, Step
from hytrec.signature import (
    APPEND,
    CANDIDATE_KEYS,
    ENCODER,
    FUSED,
    RANK,
    RECOMMEND,
    RERANKER,
    RETRIEVER,
    RETURNED_KEYS,
    RETURNED_SCORES,
    SCORES,
    STATE_LOAD,
    STATE_SAVE,
)
from hytrec_export.errors import InputError
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.validation import Inputs

AnswerStep: TypeAlias = Callable[[Sequence[Inputs]], list[StepResult]]
"""Inputs of a step's model -> its outputs, one answer per request, in order."""

_MODELS = (STATE_LOAD, ENCODER, RETRIEVER, RERANKER, STATE_SAVE)
_STEPS = {endpoint.name: {step.model.name: step for step in endpoint.steps} for endpoint in (APPEND, RANK, RECOMMEND)}


@dataclass(frozen=True, kw_only=True)
class PipelineRequest:
    """One call.

    Args:
        endpoint: which chain it goes through.
        inputs: its public inputs.
    """

    endpoint: Ensemble
    inputs: Inputs


def endpoint_of(wanted: frozenset[str]) -> Ensemble:
    """The endpoint that makes the outputs asked for: no other has scores, or items with theirs."""
    if wanted & {RETURNED_KEYS.name, RETURNED_SCORES.name}:
        return RECOMMEND
    return RANK if SCORES.name in wanted else APPEND


class FusedPipeline:
    """Answers one server batch, whichever endpoints its calls are of.

    Every step takes all calls that have it in their chain and have not failed.

    Args:
        steps: by model name.
    """

    def __init__(self, steps: Mapping[str, AnswerStep]) -> None:
        self._steps = [(model.name, steps[model.name]) for model in _MODELS]

    def answer(self, batch: Sequence[PipelineRequest]) -> list[StepResult]:
        """Public outputs of every call, in order."""
        under_way = [_InFlight(call) for call in batch]
        for name, answer in self._steps:
            taking = [call for call in under_way if call.takes(name)]
            if taking:
                answers = answer([call.inputs_of(name) for call in taking])
                for call, result in zip(taking, answers, strict=True):
                    call.absorb(name, result)
        return [call.answer for call in under_way]


class _InFlight:
    """A call between two steps: the tensors made so far, by their names in the ensemble."""

    def __init__(self, call: PipelineRequest) -> None:
        self._steps: Mapping[str, Step] = _STEPS[call.endpoint.name]
        self._tensors: dict[str, NDArray[Any]] = dict(call.inputs)
        self.answer: StepResult = _complaint(call) or {}

    def takes(self, name: str) -> bool:
        return name in self._steps and not isinstance(self.answer, Exception)

    def inputs_of(self, name: str) -> Inputs:
        wiring, tensors = self._steps[name].inputs, self._tensors
        return {inner: tensors[outer] for inner, outer in wiring.items() if outer in tensors}

    def absorb(self, name: str, answer: StepResult) -> None:
        self.answer = answer
        if not isinstance(answer, Exception):
            wiring = self._steps[name].outputs
            self._tensors.update({outer: answer[inner] for inner, outer in wiring.items() if inner in answer})


def _complaint(call: PipelineRequest) -> InputError | None:
    """Why a call that did not come through its endpoint cannot be answered."""
    given = CANDIDATE_KEYS.name in call.inputs
    if given == (call.endpoint is RANK):
        return None
    return InputError(
        f"{CANDIDATE_KEYS.name} are {'given' if given else 'missing'} and the outputs asked for are those of "
        f"{call.endpoint.name}; call {APPEND.name}, {RANK.name} or {RECOMMEND.name}, not {FUSED.name}"
    )
