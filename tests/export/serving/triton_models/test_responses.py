import gc
import weakref
from collections.abc import Sequence
from functools import partial
from threading import Thread
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.signature import APPLIED, MODEL_FINGERPRINT, NEW_EVENT_COUNT, STATE_SAVE, STATE_STATUS
from hytrec_export.errors import GraphError, InputError, StateConflictError, StoreFullError
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.receipt import Receipts
from hytrec_export.serving.triton_models import responses
from hytrec_export.serving.triton_models.responses import respond as respond_to
from hytrec_export.serving.triton_models.responses import tensors_of
from hytrec_export.serving.validation import Inputs

respond = partial(respond_to, model=STATE_SAVE, read=tensors_of)


def _doubled(batch: Sequence[Inputs]) -> list[StepResult]:
    return [{"y": inputs["x"] * 2, "z": inputs["x"]} for inputs in batch]


def test_every_request_gets_what_it_asked_for(make_request: Any) -> None:
    both, one = respond(
        [make_request(["y", "z"], x=[[1]]), make_request(["y"], x=[[2, 3]])],
        _doubled,
    )
    assert {name: values.tolist() for name, values in both.outputs.items()} == {"y": [[2]], "z": [[1]]}
    assert {name: values.tolist() for name, values in one.outputs.items()} == {"y": [[4, 6]]}


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("x is 3;\n it must be 1"), "INVALID_ARG", "x is 3; it must be 1"),
        (StateConflictError("retry the call"), "UNAVAILABLE", "retry the call"),
        (StoreFullError("full"), "UNAVAILABLE", "full"),
        (GraphError("bad graph"), "INTERNAL", "bad graph"),
        (
            KeyError("x"),
            "INTERNAL",
            "hytrec_state_save failed (KeyError: 'x'); retry with the same request_id, or see the server's log",
        ),
    ],
)
def test_an_error_reaches_its_own_request_in_one_line(
    make_request: Any, error: Exception, code: str, text: str
) -> None:
    requests = [make_request(["y"], x=[[1]]), make_request(["y"], x=[[2]])]
    bad, good = respond(requests, lambda batch: [error, *_doubled(batch)[1:]])
    assert (bad.error.code, bad.error.text) == (code, text)
    assert good.error is None


def test_internal_errors_leave_a_trace_in_the_log(make_request: Any, pb_utils: Any) -> None:
    respond([make_request([], x=[[1]])], lambda _: [ValueError("odd")])
    respond([make_request([], x=[[1]])], lambda _: [InputError("yours")])
    (line,) = pb_utils.Logger.lines
    assert line.endswith("ValueError: odd\n")


def test_an_exception_of_the_step_answers_everyone(make_request: Any) -> None:
    def fail(_: object) -> list[StepResult]:
        raise RuntimeError("boom")

    responses = respond([make_request(["y"], x=[[1]])] * 3, fail)
    assert [response.error.code for response in responses] == ["INTERNAL"] * 3
    assert responses[0].error.text.startswith("hytrec_state_save failed (RuntimeError: boom)")
    assert len({id(response.error) for response in responses}) == 3  # a shared one crashes Triton 2.51


def _failing(batch: Sequence[Inputs]) -> list[StepResult]:
    results: list[StepResult] = []
    for _ in batch:
        try:
            raise InputError("bad") from KeyError("x")  # noqa: TRY301
        except InputError as error:
            results.append(error)
    return results


def _unreadable(batch: Sequence[Inputs]) -> list[StepResult]:
    return [None] * len(batch)  # type: ignore[list-item]


@pytest.mark.parametrize("run", [_failing, _unreadable])
def test_a_failed_request_is_let_go_at_once(make_request: Any, run: Any) -> None:
    """By reference counts alone: garbage would hold shared memory of Triton beyond the end of the server."""
    gc.collect()
    gc.disable()
    try:
        request = make_request(["y"], x=[[1]])
        released = weakref.ref(request)
        (response,) = respond([request], run)
        assert response.error is not None
        del request, response
        assert released() is None
    finally:
        gc.enable()


def test_too_few_answers_are_an_error_of_everyone(make_request: Any) -> None:
    responses = respond([make_request(["y"], x=[[1]])] * 2, lambda _: [{"y": np.ones(1)}])
    assert [response.error.code for response in responses] == ["INTERNAL"] * 2
    assert "the step returned too few results" in responses[0].error.text


def test_a_request_that_cannot_be_read_fails_alone(make_request: Any) -> None:
    class Torn:
        def name(self) -> str:
            return "x"

        def as_numpy(self) -> None:
            raise ValueError("unpack requires a buffer of 4 bytes")

    torn = make_request(["y"])
    torn._inputs = [Torn()]
    bad, good = respond([torn, make_request(["y"], x=[[1]])], _doubled)
    assert bad.error.code == "INVALID_ARG"
    assert bad.error.text == (
        "a tensor of the request cannot be read (unpack requires a buffer of 4 bytes); check its encoding"
    )
    assert good.outputs["y"].tolist() == [[2]]


def test_an_answer_that_cannot_be_sent_fails_alone(make_request: Any, pb_utils: Any, monkeypatch: Any) -> None:
    make_tensor = pb_utils.Tensor

    def picky(name: str, values: Any) -> Any:
        if values.sum() > 2:
            raise TypeError("unsupported")
        return make_tensor(name, values)

    monkeypatch.setattr(pb_utils, "Tensor", picky)
    bad, good = respond([make_request(["y"], x=[[9]]), make_request(["y"], x=[[1]])], _doubled)
    assert bad.error.text.startswith("hytrec_state_save failed (TypeError: unsupported)")
    assert good.error is None


def test_what_receipts_share_is_one_tensor_for_a_thread() -> None:
    responses.drop_shared_tensors()
    receipts = Receipts("00" * 16)
    made: list[dict[str, Any]] = []

    def make() -> None:
        for count in (1, 2):
            outputs = receipts.of(count, applied=True, status=StateStatus.FOUND)
            made.append({tensor.name(): tensor for tensor in responses._tensors(outputs, list(outputs))})

    make()
    thread = Thread(target=make)
    thread.start()
    thread.join()
    first, second, *others = made
    for name in (APPLIED.name, MODEL_FINGERPRINT.name, STATE_STATUS.name):
        assert first[name] is second[name]
        assert all(other[name] is not first[name] for other in others)
    assert [one[NEW_EVENT_COUNT.name].as_numpy().item() for one in made] == [1, 2, 1, 2]
    responses.drop_shared_tensors()
    make()
    assert made[-1][APPLIED.name] is not first[APPLIED.name]
