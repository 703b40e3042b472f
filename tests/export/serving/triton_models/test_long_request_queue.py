from collections.abc import Sequence
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pytest

from hytrec.signature import ENCODER
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.triton_models.long_request_queue import LongRequestQueue
from hytrec_export.serving.triton_models.responses import tensors_of
from hytrec_export.serving.validation import Inputs

EncoderQueue = partial(LongRequestQueue, read=tensors_of, model=ENCODER)


class Gate:
    """Answers short requests at once, and long ones when it is opened."""

    def __init__(self) -> None:
        self.opened = Event()
        self.batches: list[int] = []

    def __call__(self, batch: Sequence[Inputs]) -> list[StepResult]:
        if any(inputs["x"].size > 1 for inputs in batch):
            assert self.opened.wait(10)
        self.batches.append(len(batch))
        return [{"y": inputs["x"] + 1} for inputs in batch]


def _queue(gate: Gate, size: int = 2) -> LongRequestQueue:
    return EncoderQueue(run=gate, is_long=lambda r: r.inputs()[0].as_numpy().size > 1, size=size)


def test_short_requests_do_not_wait_for_long_ones(make_request: Any) -> None:
    gate = Gate()
    queue = _queue(gate)
    long, short = make_request(["y"], x=[[1, 2]]), make_request(["y"], x=[[1]])
    late, soon, also_soon = queue.execute([long, short, short])
    assert late is None
    assert [response.outputs["y"].tolist() for response in (soon, also_soon)] == [[[2]], [[2]]]
    assert not long.sent
    gate.opened.set()
    queue.finish()
    assert [response.outputs["y"].tolist() for response in long.sent] == [[[2, 3]]]
    assert gate.batches == [2, 1]


def test_without_room_a_long_request_is_answered_with_the_short_ones(make_request: Any) -> None:
    gate = Gate()
    gate.opened.set()
    queue = _queue(gate, size=1)
    queue._room.acquire()
    (response,) = queue.execute([make_request(["y"], x=[[1, 2]])])
    assert response.outputs["y"].tolist() == [[2, 3]]


def test_room_is_given_back(make_request: Any) -> None:
    gate = Gate()
    gate.opened.set()
    queue = _queue(gate, size=1)
    for _ in range(3):
        request = make_request(["y"], x=[[1, 2]])
        assert queue.execute([request]) == [None]
        queue._worker.submit(lambda: None).result(10)
        assert len(request.sent) == 1


def test_a_failing_long_request_gets_its_error(make_request: Any) -> None:
    def fail(_: object) -> list[StepResult]:
        raise RuntimeError("boom")

    queue = EncoderQueue(run=fail, is_long=lambda _: True, size=1)
    request = make_request(["y"], x=[[1]])
    assert queue.execute([request]) == [None]
    queue.finish()
    assert request.sent[0].error.code == "INTERNAL"


def test_an_answer_nobody_takes_is_logged(make_request: Any, pb_utils: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = EncoderQueue(run=lambda _: [{"y": np.ones((1, 1))}], is_long=lambda _: True, size=1)
    request = make_request(["y"], x=[[1]])
    monkeypatch.setattr(request, "send", lambda *_, **__: 1 / 0)
    queue.execute([request])
    queue.finish()
    assert pb_utils.Logger.lines == ["hytrec_encoder could not send a response: division by zero"]
