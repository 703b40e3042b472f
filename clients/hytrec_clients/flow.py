"""The remote calls a flow asks for, and how the ways they fail are told apart.

A *flow* is a generator that yields `Step`s and is sent their results: it holds everything a call does (deadlines,
retries, coding, checks) and performs nothing. The sync client performs a step by calling it, the asyncio client by
awaiting it; that is all the two differ in. Failed remote calls are thrown into the flow as `RpcFailure`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it connects again to a server that was away; retries need it back at once.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # in spite of its name: how long one connection may take
    # Sets TCP_USER_TIMEOUT, so that a connection to a dead machine is given up after 5 s instead of 15 minutes.
    # Pings are sent in calls of over five minutes only: a server cuts off clients that ping more often without data.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]

_RETRYABLE = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED"})
_PASSING = {
    "UNKNOWN": re.compile(r"stream removed", re.IGNORECASE),
    "INTERNAL": re.compile(r"RST_STREAM|GOAWAY|socket closed|connection reset|is not healthy", re.IGNORECASE),
    "NOT_FOUND": re.compile(r"has no available versions"),
}
"""Other failures that pass: a connection cut in mid-call, a python model that died, a model of a server that stops."""
_PREFIX = re.compile(r"^(\[request id: [^]]*\] |in ensemble '[^']*', )+")


class RpcFailure(Exception):  # noqa: N818 - internal: caught by every flow
    """A remote call failed: gRPC status by name, and the server's message without Triton's prefixes."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = " ".join(_PREFIX.sub("", message).split())
        super().__init__(f"{code}: {self.message}")

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed a moment later."""
        passing = _PASSING.get(self.code)
        return self.code in _RETRYABLE or (passing is not None and bool(passing.search(self.message)))


def failure_of(error: Exception) -> RpcFailure:
    """The failure a tritonclient exception tells of.

    Raises:
        Exception: `error` itself, where it is not about a remote call.
    """
    status = getattr(error, "status", None)
    code = status() if callable(status) else None
    if not isinstance(code, str):
        raise error
    return RpcFailure(code.removeprefix("StatusCode."), str(getattr(error, "message", str)() or ""))


Sleep = Callable[[float], Any]


class Step(Protocol):
    """Something to perform: a remote call, or a wait."""

    def perform(self, triton: Any, sleep: Sleep) -> Any:
        """Its result from the sync tritonclient, an awaitable of it from the asyncio one."""
        ...


Flow = Generator[Step, Any, T]


@dataclass(frozen=True)
class Infer:
    """Run a model; the result is an InferResult."""

    model: str
    inputs: list[Any]
    timeout_s: float

    def perform(self, triton: Any, sleep: Sleep) -> Any:  # noqa: ARG002 - one signature for all steps
        """Call ModelInfer."""
        return triton.infer(self.model, self.inputs, client_timeout=self.timeout_s)


@dataclass(frozen=True)
class Describe:
    """Ask for a model's tensors; the result is a ModelMetadataResponse."""

    model: str
    timeout_s: float

    def perform(self, triton: Any, sleep: Sleep) -> Any:  # noqa: ARG002
        """Call ModelMetadata."""
        return triton.get_model_metadata(self.model, client_timeout=self.timeout_s)


@dataclass(frozen=True)
class AskConfig:
    """Ask for a model's configuration; the result is a ModelConfigResponse."""

    model: str
    timeout_s: float

    def perform(self, triton: Any, sleep: Sleep) -> Any:  # noqa: ARG002
        """Call ModelConfig."""
        return triton.get_model_config(self.model, client_timeout=self.timeout_s)


@dataclass(frozen=True)
class AskReady:
    """Ask whether a model answers; the result is a bool."""

    model: str
    timeout_s: float

    def perform(self, triton: Any, sleep: Sleep) -> Any:  # noqa: ARG002
        """Call ModelReady."""
        return triton.is_model_ready(self.model, client_timeout=self.timeout_s)


@dataclass(frozen=True)
class Wait:
    """Do nothing for a while."""

    seconds: float

    def perform(self, triton: Any, sleep: Sleep) -> Any:  # noqa: ARG002
        """Sleep."""
        return sleep(self.seconds)


class Progress(Generic[T]):
    """A flow on its way: perform `step` and tell how it went, until `step` is None; then `result` is there."""

    step: Step | None
    result: T

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._advance(lambda: next(flow))

    def succeeded(self, answer: Any) -> None:
        """Go on after the step's result.

        Raises:
            ClientError: the flow's own errors.
        """
        self._advance(lambda: self._flow.send(answer))

    def failed(self, error: Exception) -> None:
        """Go on after a failed remote call.

        Raises:
            ClientError: the flow's own errors.
            Exception: `error` itself, where it is not about a remote call.
        """
        failure = failure_of(error)
        self._advance(lambda: self._flow.throw(failure))

    def _advance(self, move: Callable[[], Step]) -> None:
        try:
            self.step = move()
        except StopIteration as stop:
            self.step = None
            self.result = stop.value
