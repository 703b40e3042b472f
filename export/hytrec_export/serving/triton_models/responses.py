"""From Triton's requests to plain arrays and back. Whatever goes wrong, every request of a batch gets an answer."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from hytrec.contract import Model
from hytrec_export.errors import ExportError, InputError, StateStoreError
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.validation import Inputs

_Call = TypeVar("_Call")


def tensors_of(request: Any) -> Inputs:
    """A request's tensors by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def respond(
    requests: Sequence[Any],
    answer: Callable[[Sequence[_Call]], list[StepResult]],
    *,
    model: Model,
    read: Callable[[Any], _Call],
) -> list[Any]:
    """Answer a server batch: one response per request, in order.

    A request that cannot be read or answered gets an error of its own; when `answer` itself raises, all get that.
    Nothing is ever raised: Triton 2.51 keeps the requests of a raising `execute`, and then stops only by force.

    Args:
        answer: what was read of every request -> tensors or an exception for each, in order.
        model: whose step this is, for messages.
        read: what `answer` needs of a request; `tensors_of`, mostly.
    """
    answers: list[StepResult] = []
    readable: list[_Call] = []
    positions: list[int] = []
    for position, request in enumerate(requests):
        try:
            readable.append(read(request))
            positions.append(position)
            answers.append(_UNANSWERED)
        except Exception as error:  # noqa: BLE001  a malformed tensor fails its own request
            answers.append(
                InputError(f"a tensor of the request cannot be read ({_one_line(error)}); check its encoding")
            )
    if readable:
        for position, result in zip(positions, _answer_all(readable, answer), strict=True):
            answers[position] = result
    return [_response(request, result, model) for request, result in zip(requests, answers, strict=True)]


_UNANSWERED = RuntimeError("the step gave no answer")


def _answer_all(batch: Sequence[_Call], answer: Callable[[Sequence[_Call]], list[StepResult]]) -> list[StepResult]:
    try:
        answers = answer(batch)
    except Exception as error:  # noqa: BLE001  an exception out of execute would fail the batch without a code
        return [error] * len(batch)
    missing = len(batch) - len(answers)
    return answers if not missing else [_UNANSWERED] * len(batch)


def _response(request: Any, answer: StepResult, model: Model) -> Any:
    if not isinstance(answer, Exception):
        try:
            return pb_utils.InferenceResponse(output_tensors=_tensors(answer, set(request.requested_output_names())))
        except Exception as error:  # noqa: BLE001  see _answer_all
            answer = error
    return pb_utils.InferenceResponse(output_tensors=[], error=_triton_error(answer, model))


def _tensors(outputs: Mapping[str, NDArray[Any]], wanted: set[str]) -> list[Any]:
    return [pb_utils.Tensor(name, values) for name, values in outputs.items() if name in wanted]


def _triton_error(error: Exception, model: Model) -> Any:
    """A new TritonError: one that several responses shared was seen to crash the server (Triton 2.51)."""
    codes = pb_utils.TritonError
    if isinstance(error, InputError):
        return codes(_one_line(error), codes.INVALID_ARG)
    if isinstance(error, StateStoreError):
        return codes(_one_line(error), codes.UNAVAILABLE)
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    if isinstance(error, ExportError):
        return codes(_one_line(error), codes.INTERNAL)
    return codes(
        f"{model.name} failed ({type(error).__name__}: {_one_line(error)}); "
        "repeat the call with its request_id, or see the server's log",
        codes.INTERNAL,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
