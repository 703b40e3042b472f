"""Before a model works: requests that nobody waits for are dropped, and those that are too many are refused."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Event, Thread
from typing import Any

import numpy as np

from hytrec.contract import Model
from hytrec_export.errors import OptionError, OverloadError
from hytrec_export.local_http import HttpAddress, parsed_address, request
from hytrec_export.serving.call_context import GIVE_UP_AT, NEVER
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.serving.queue_watch import SLACK_S, QueueWatch, queued_of
from hytrec_export.serving.triton_models.responses import response_of, tensors_of
from hytrec_export.serving.triton_models.step_model import Execute
from hytrec_export.serving.tuning import MAX_QUEUE_S, MAX_QUEUED, QUEUE_LOOK_S
from hytrec_export.serving.validation import Inputs
from hytrec_export.settings import METRICS_ADDRESS_VARIABLE

_LONGEST_US = 10**13
_CANCELLED_AFTER_S = MAX_QUEUE_S / 2
"""Whether a request was cancelled costs a message to the server, so it is asked of those that waited."""


class Admitted:
    """A Triton request that may be worked on.

    Args:
        triton: the request itself.
        give_up_at_ns: when its client gives up, on the clock of `time.monotonic_ns`.
        counters: count it where it is dropped after all.
    """

    def __init__(self, triton: Any, give_up_at_ns: int, counters: Counters) -> None:
        self.triton = triton
        self._counters = counters
        self._give_up_at_ns = give_up_at_ns
        self._outputs: frozenset[str] | None = None
        self.inputs = triton.inputs
        self.get_response_sender = triton.get_response_sender

    def requested_output_names(self) -> Collection[str]:
        """As Triton's request has it, which makes a new list for every call."""
        if self._outputs is None:
            self._outputs = frozenset(self.triton.requested_output_names())
        return self._outputs

    def tensors(self) -> Inputs:
        """Its input tensors by name, (1, n) each, and `GIVE_UP_AT`.

        Raises:
            OverloadError: the client has given up meanwhile.
        """
        if self._give_up_at_ns == NEVER:
            return tensors_of(self.triton)
        late_ns = time.monotonic_ns() - self._give_up_at_ns
        if late_ns > 0:
            self._counters.add(ServerCounter.STALE, 1)
            raise OverloadError(
                f"the request was not begun before its client gave up, {late_ns / 1e6:.0f} ms ago; retry it with the "
                "same request_id and a larger timeout_s"
            )
        return {**tensors_of(self.triton), GIVE_UP_AT: np.array([[self._give_up_at_ns]])}


class Intake:
    """Hands on the requests of a server batch that somebody waits for, unless too many wait.

    The client says how long it waits, in the request parameter `timeout`, microseconds from when it sends.

    Args:
        execute: the model's work, on `Admitted` requests.
        later: models that the requests go to afterwards; their queues are bounded here.
        counters: count what is refused and dropped.
        clock: monotonic seconds.

    Raises:
        OptionError: the environment's address of Triton's metrics is none.
    """

    def __init__(
        self,
        execute: Execute,
        *,
        model: Model,
        counters: Counters,
        later: Sequence[Model] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = execute
        self._model = model
        self._counters = counters
        self._clock = clock
        self._returned = clock()
        self._watch = QueueWatch(model.name, [other.name for other in later], now=self._returned)
        self._busy, self._closed = Event(), Event()
        self._thread: Thread | None = None
        if (target := _metrics_address()) is not None:
            self._thread = Thread(target=self._look_on, args=(target,), name="queue", daemon=True)
            self._thread.start()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request, in order; None for one whose response is sent later."""
        now = self._clock()
        if now - self._returned > SLACK_S:
            self._watch.was_idle(now)
        if not self._busy.is_set():  # the thread is at rest
            self._busy.set()
        waited_s = self._watch.waited_s(now)
        refused, fullest = self._watch.refuse(len(requests))
        admitted: list[Admitted] = []
        errors: dict[int, OverloadError] = {}
        for place, triton in enumerate(requests):
            timeout_us = triton.timeout()
            if place < refused:
                errors[place] = _too_many(fullest)
            elif error := _dropped(triton, timeout_us, waited_s):
                errors[place] = error
            else:
                admitted.append(Admitted(triton, _give_up_at_ns(now, timeout_us, waited_s), self._counters))
        responses = self._run(admitted) if admitted else []
        if errors:
            responses = self._with_errors(requests, responses, errors, refused)
        self._returned = self._clock()
        return responses

    def _with_errors(
        self, requests: Sequence[Any], responses: Sequence[Any], errors: Mapping[int, OverloadError], refused: int
    ) -> list[Any]:
        """Responses to all, in order; those of requests that were not admitted are errors."""
        others = iter(responses)
        for counter, count in ((ServerCounter.OVERLOAD, refused), (ServerCounter.STALE, len(errors) - refused)):
            if count:
                self._counters.add(counter, count)
        return [
            response_of(triton, errors[place], self._model) if place in errors else next(others)
            for place, triton in enumerate(requests)
        ]

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._busy.set()
        if self._thread is not None:
            self._thread.join()

    def _look_on(self, target: HttpAddress) -> None:
        """Look at the queues while there are requests."""
        while not self._closed.is_set():
            self._busy.wait()
            self._busy.clear()
            before = self._clock()
            page = request(target, "GET", "/metrics", timeout_s=MAX_QUEUE_S)
            if page is not None and self._watch.look(before, queued_of(page[1])):
                self._busy.set()
            self._closed.wait(QUEUE_LOOK_S)


def _metrics_address() -> HttpAddress | None:
    """Of the server's environment; without one nothing is known of the queues, and nothing is refused.

    Raises:
        OptionError: it is none.
    """
    text = os.environ.get(METRICS_ADDRESS_VARIABLE)
    try:
        return parsed_address(text) if text else None
    except ValueError:
        raise OptionError(
            f"{METRICS_ADDRESS_VARIABLE} is {text!r}; write where Triton's metrics are as http://host:port or unix:PATH"
        ) from None


def _too_many(model: str) -> OverloadError:
    return OverloadError(
        f"too many requests wait for {model}; {MAX_QUEUED} may, and for {MAX_QUEUE_S:g} s: retry later with the same "
        "request_id, or send fewer at a time"
    )


def _give_up_at_ns(now: float, timeout_us: int, waited_s: float) -> int:
    if not 0 < timeout_us < _LONGEST_US:
        return NEVER
    timeout_s = timeout_us / 1e6
    return int((now + timeout_s - (waited_s if waited_s > SLACK_S else min(waited_s, timeout_s / 2))) * 1e9)


def _dropped(triton: Any, timeout_us: int, waited_s: float) -> OverloadError | None:
    if waited_s > SLACK_S and 0 < timeout_us <= waited_s * 1e6:
        return OverloadError(
            f"the request waited for up to {waited_s:.2f} s and its client for {timeout_us / 1e6:.2f} s, so it was not "
            "begun; retry it with the same request_id and a larger timeout_s"
        )
    if waited_s > _CANCELLED_AFTER_S and triton.is_cancelled():
        return OverloadError("the request was cancelled by its client and not begun; send it again if it is wanted")
    return None
