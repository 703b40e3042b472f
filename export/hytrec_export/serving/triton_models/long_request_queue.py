"""Two lanes through one model: no click waits for a backfill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import BoundedSemaphore
from typing import Any, TypeVar

import triton_python_backend_utils as pb_utils

from hytrec.contract import Model
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.triton_models.responses import respond

_Call = TypeVar("_Call")


class LongRequestQueue:
    """Answers short requests of a batch at once, and long ones one after another in a thread of their own.

    `execute` returns while long requests still run, so Triton brings the next batch. Without room in the long lane
    they are answered with the short ones, which then wait: that is the back-pressure.

    Args:
        answer, read: see `respond`; they are called from two threads.
        is_long: whether a request belongs into the long lane.
        room: how many long requests may run or wait in their lane.
    """

    def __init__(
        self,
        *,
        answer: Callable[[Sequence[_Call]], list[StepResult]],
        read: Callable[[Any], _Call],
        model: Model,
        is_long: Callable[[Any], bool],
        room: int,
    ) -> None:
        self._respond = partial(respond, answer=answer, read=read, model=model)
        self._model = model
        self._is_long = is_long
        self._room = BoundedSemaphore(room)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long-lane")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request, in order; None for one that is answered later."""
        late = [self._is_long(request) and self._room.acquire(blocking=False) for request in requests]
        soon = [request for request, is_late in zip(requests, late, strict=True) if not is_late]
        responses = iter(self._respond(soon))
        for request, is_late in zip(requests, late, strict=True):
            if is_late:
                self._thread.submit(self._answer_late, request)
        return [None if is_late else next(responses) for is_late in late]

    def finish(self) -> None:
        """Wait for the long requests."""
        self._thread.shutdown()

    def _answer_late(self, request: Any) -> None:
        try:
            (response,) = self._respond([request])
            request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:  # noqa: BLE001  the caller is gone, or the server is going
            pb_utils.Logger.log_error(f"{self._model.name} could not send an answer: {error}")
        finally:
            self._room.release()
