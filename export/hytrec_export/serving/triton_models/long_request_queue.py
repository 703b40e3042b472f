"""Keeps long requests (backfills) of a model off the path of short ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import BoundedSemaphore
from typing import Any, TypeVar

import triton_python_backend_utils as pb_utils

from hytrec.contract import Model, Tensor
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.triton_models.responses import respond
from hytrec_export.serving.tuning import LONG_EVENTS, LONG_QUEUE_SIZE

_Request = TypeVar("_Request")


def is_long(request: Any, *, times: Tensor) -> bool:
    """Whether a request has `LONG_EVENTS` events or more, by the length of its input `times`."""
    found = pb_utils.get_input_tensor_by_name(request, times.name)
    return found is not None and max(found.shape(), default=0) >= LONG_EVENTS


class LongRequestQueue:
    """Responds to the short requests of a batch at once, and to long ones one after another in a worker thread.

    `execute` returns while long requests still run, so Triton sends the next batch. While the queue is full, long
    requests run with the short ones, which then wait: that is the back-pressure.

    A request that turns out to be long only when its user has been read goes into the queue then.

    Args:
        run, read: see `respond`; they are called from two threads.
        run_long: in place of `run` for long requests.
        is_long: whether a request goes into the queue.
        size: maximum long requests that run or wait.
    """

    def __init__(
        self,
        *,
        run: Callable[[Sequence[_Request]], list[StepResult]],
        read: Callable[[Any], _Request],
        model: Model,
        is_long: Callable[[Any], bool],
        size: int = LONG_QUEUE_SIZE,
        run_long: Callable[[Sequence[_Request]], list[StepResult]] | None = None,
    ) -> None:
        self._respond = partial(respond, run=run, read=read, model=model)
        self._respond_long = partial(respond, run=run_long or run, read=read, model=model)
        self._model = model
        self._is_long = is_long
        self._room = BoundedSemaphore(size)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long-requests")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request, in order; None for one whose response is sent later."""
        queued = [self._is_long(request) and self._room.acquire(blocking=False) for request in requests]
        if not any(queued):
            return self._respond_now(requests)
        now = [request for request, later in zip(requests, queued, strict=True) if not later]
        responses = iter(self._respond_now(now))
        for request, later in zip(requests, queued, strict=True):
            if later:
                self._worker.submit(self._respond_later, request)
        return [None if later else next(responses) for later in queued]

    def _respond_now(self, requests: Sequence[Any]) -> list[Any]:
        responses = self._respond(requests)
        return [response or self._later(request) for request, response in zip(requests, responses, strict=True)]

    def _later(self, request: Any) -> Any:
        """Put a request into the queue, or respond to it here where the queue is full."""
        if self._room.acquire(blocking=False):
            self._worker.submit(self._respond_later, request)
            return None
        return self._respond_long([request])[0]

    def finish(self) -> None:
        """Wait for the long requests."""
        self._worker.shutdown()

    def _respond_later(self, request: Any) -> None:
        try:
            (response,) = self._respond_long([request])
            request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:  # noqa: BLE001  the caller is gone, or the server is going
            pb_utils.Logger.log_error(f"{self._model.name} could not send a response: {error}")
        finally:
            self._room.release()
