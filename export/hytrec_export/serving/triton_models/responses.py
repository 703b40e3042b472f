"""Triton requests to plain arrays and results back; whatever fails, every request of a batch gets a response."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import local
from typing import Any, TypeVar

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from hytrec.contract import Model
from hytrec_export.errors import ExportError, InputError, OverloadError, StateStoreError, drop_frames
from hytrec_export.serving.load_step import ReplayNeededError, StepResult
from hytrec_export.serving.receipt import is_constant
from hytrec_export.serving.validation import Inputs

_Request = TypeVar("_Request")


def tensors_of(request: Any) -> Inputs:
    """A request's input tensors by name, (1, n) each."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def respond(
    requests: Sequence[Any],
    run: Callable[[Sequence[_Request]], list[StepResult]],
    *,
    model: Model,
    read: Callable[[Any], _Request],
) -> list[Any]:
    """Run a server batch: one response per request, in order; None for one that has to run again as a long one.

    A request that cannot be read or run gets an error of its own; if `run` itself raises, all get that error.
    Nothing is ever raised: Triton 2.51 keeps the requests of a raising `execute`, and then stops only by force.

    Args:
        run: what was read of every request -> tensors or an exception for each, in order.
        model: whose step this is, for messages.
        read: what `run` needs of a request; mostly `tensors_of`.
    """
    results: list[StepResult] = []
    readable: list[_Request] = []
    positions: list[int] = []
    for position, request in enumerate(requests):
        try:
            readable.append(read(request))
            positions.append(position)
            results.append(_NO_RESULT)
        except OverloadError as error:
            results.append(error)
        except Exception as error:  # noqa: BLE001  a malformed tensor fails its own request
            results.append(
                InputError(f"a tensor of the request cannot be read ({_one_line(error)}); check its encoding")
            )
    if readable:
        for position, result in zip(positions, _run_all(readable, run), strict=True):
            results[position] = result
    return [
        None if isinstance(result, ReplayNeededError) else response_of(request, result, model)
        for request, result in zip(requests, results, strict=True)
    ]


_NO_RESULT = RuntimeError("the step returned too few results")


def _run_all(batch: Sequence[_Request], run: Callable[[Sequence[_Request]], list[StepResult]]) -> list[StepResult]:
    try:
        results = run(batch)
    except Exception as error:  # noqa: BLE001  an exception out of execute would fail the batch without a code
        return [error] * len(batch)
    return results if len(results) == len(batch) else [_NO_RESULT] * len(batch)


def response_of(request: Any, result: StepResult, model: Model) -> Any:
    """The Triton response that carries a result, or its error."""
    if not isinstance(result, Exception):
        try:
            return pb_utils.InferenceResponse(output_tensors=_tensors(result, request.requested_output_names()))
        except Exception as error:  # noqa: BLE001  see _run_all
            result = error
    response = pb_utils.InferenceResponse(output_tensors=[], error=_triton_error(result, model))
    drop_frames(result)
    return response


def _tensors(outputs: Mapping[str, NDArray[Any]], wanted: Collection[str]) -> list[Any]:
    return [_tensor(name, values) for name, values in outputs.items() if name in wanted]


class _SharedTensors(local):
    """Tensors of constants, by name and array, made once for each thread that responds.

    Triton writes a tensor to shared memory when it is first sent, and counts who uses it there.
    """

    def __init__(self) -> None:
        self.made: dict[tuple[str, int], Any] = {}


_shared = _SharedTensors()


def _tensor(name: str, values: NDArray[Any]) -> Any:
    if not is_constant(values):
        return pb_utils.Tensor(name, values)
    key = name, id(values)
    made = _shared.made.get(key)
    if made is None:
        made = _shared.made[key] = pb_utils.Tensor(name, values)
    return made


def drop_shared_tensors() -> None:
    """Let go of the tensors of this thread while Triton is there: their memory is its."""
    _shared.made.clear()


def _triton_error(error: Exception, model: Model) -> Any:
    """A new TritonError: one that several responses shared was seen to crash the server (Triton 2.51)."""
    codes = pb_utils.TritonError
    if isinstance(error, InputError):
        return codes(_one_line(error), codes.INVALID_ARG)
    if isinstance(error, (StateStoreError, OverloadError)):
        return codes(_one_line(error), codes.UNAVAILABLE)
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    if isinstance(error, ExportError):
        return codes(_one_line(error), codes.INTERNAL)
    return codes(
        f"{model.name} failed ({type(error).__name__}: {_one_line(error)}); "
        "retry with the same request_id, or see the server's log",
        codes.INTERNAL,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
