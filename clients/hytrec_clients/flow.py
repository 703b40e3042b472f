"""Flows: the logic of a request without I/O, as generators that yield remote calls and waits.

A *flow* yields `Step`s and is sent their results: it holds everything a request does (deadlines, retries, coding,
checks) and performs nothing. The sync client performs a step by calling it, the asyncio client by awaiting it; that is
all the two differ in. Failed remote calls are thrown into the flow as `RpcFailure`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar, get_args, get_type_hints

from hytrec.optional import missing_package
from hytrec_clients.errors import MissingPackageError

T = TypeVar("T")
MethodT = TypeVar("MethodT", bound=Callable[..., Any])

_CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it connects again to a server that was away; retries need it back at once.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # in spite of its name: how long one connection may take
    # Sets TCP_USER_TIMEOUT, so that a connection to a dead machine is given up after 5 s instead of 15 minutes.
    # Pings are sent in requests of over five minutes only: a server cuts off clients that ping more often without data.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


def require(module: str) -> ModuleType:
    """Import a module of the `client` extra.

    Raises:
        MissingPackageError: it is not installed; the message has the pip command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(missing_package(error.name or module, extra="client")) from error


def channel_options(url: str) -> list[tuple[str, int]]:
    """gRPC options for a server at `url`, `host:port`; one on this machine is never sought through an HTTP proxy."""
    return [*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)] if _is_loopback(url) else _CHANNEL_OPTIONS


def _is_loopback(url: str) -> bool:
    host = url.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


_RETRYABLE = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED"})
_TRANSIENT = {
    "UNKNOWN": re.compile(r"stream removed", re.IGNORECASE),
    "INTERNAL": re.compile(r"RST_STREAM|GOAWAY|socket closed|connection reset|is not healthy", re.IGNORECASE),
    "NOT_FOUND": re.compile(r"has no available versions"),
    "INVALID_ARGUMENT": re.compile(r"incomplete string data"),
}
"""Other transient failures: a connection cut in mid-request, a python model that died, a server that stops, another's
truncated string in the same server batch, all of which Triton 2.51 fails (our own strings are whole)."""
_AWAY = re.compile(
    r"failed to connect|connection (refused|reset|aborted|timed out)|socket closed|broken pipe|(recv|send)msg|GOAWAY"
    r"|stopping|shutdown|http2 header with status|(DNS|name) resolution|keepalive|ping timeout|transport"
    r"|not ready|endpoint closing",
    re.IGNORECASE,
)
_OWN_WORDS = re.compile(r"the state store |the request |too many requests ")
"""The beginning of what our own models say, which may quote a failed connection to the store."""
_CONFLICT = re.compile(r"state changed while this request ran|another writer")
RESTRICTED = re.compile(r"protocol is restricted")
TLS_FAILED = re.compile(
    r"Tls handshake failed|CERTIFICATE_VERIFY_FAILED|SSL_ERROR_SSL|Hostname Verification|not in peer certificate",
    re.IGNORECASE,
)
"""Of UNAVAILABLE failures, those that a retry does not change: no token, or a certificate that is not accepted."""
_PREFIX = re.compile(r"^(\[request id: [^]]*\] |in ensemble '[^']*', )+")


class RpcFailure(Exception):  # noqa: N818 - internal: caught by every flow
    """A remote call failed: gRPC status by name, and the server's message without Triton's prefixes."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = " ".join(_PREFIX.sub("", message).split())
        super().__init__(f"{code}: {self.message}")

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed a moment later."""
        if self.not_authenticated:
            return False
        transient = _TRANSIENT.get(self.code)
        return self.code in _RETRYABLE or (transient is not None and bool(transient.search(self.message)))

    @property
    def stalled(self) -> bool:
        """Whether there was no response in the attempt's time."""
        return self.code == "DEADLINE_EXCEEDED"

    @property
    def server_away(self) -> bool:
        """Whether the server itself is at fault: dead, cut off, stopping or not ready; not a busy or full one."""
        if self.code == "UNAVAILABLE":
            return self.retryable and bool(_AWAY.search(self.message)) and not _OWN_WORDS.match(self.message)
        return self.retryable and self.code in {"CANCELLED", "UNKNOWN", "INTERNAL", "NOT_FOUND"}

    @property
    def conflict(self) -> bool:
        """Whether another writer of the same user was faster."""
        return self.code == "UNAVAILABLE" and bool(_CONFLICT.search(self.message))

    @property
    def not_authenticated(self) -> bool:
        """Whether a token or a certificate was not accepted."""
        return bool(RESTRICTED.search(self.message) or TLS_FAILED.search(self.message))


def failure_of(error: Exception) -> RpcFailure:
    """The failure that an exception of tritonclient, or of `patient`, tells of.

    Raises:
        Exception: `error` itself, where it is not about a remote call.
    """
    status = getattr(error, "status", None)
    if isinstance(error, RpcFailure):
        return error
    code = status() if callable(status) else None
    if not isinstance(code, str):
        raise error
    return RpcFailure(code.removeprefix("StatusCode."), str(getattr(error, "message", str)() or ""))


Sleep = Callable[[float], Any]


class Step(Protocol):
    """Something to perform: a remote call, or a wait."""

    def perform(self, servers: Mapping[str, Any], sleep: Sleep) -> Any:
        """Its result from a sync tritonclient, by URL of its server, an awaitable of it from an asyncio one."""
        ...


Flow = Generator[Step, Any, T]


@dataclass(frozen=True)
class RemoteCall:
    """Call a method of tritonclient for one model; the result is what that method returns.

    Args:
        method: its name, such as "infer".
        arguments: after the model's name.
        url: of the server.
    """

    method: str
    model: str
    arguments: tuple[Any, ...]
    timeout_s: float
    url: str

    def perform(self, servers: Mapping[str, Any], sleep: Sleep) -> Any:  # noqa: ARG002 - one signature for all steps
        """Send the call; a server drops a request that it begins only after its client has given up."""
        told = {"timeout": max(1, int(self.timeout_s * 1e6))} if self.method == "infer" else {}
        return getattr(servers[self.url], self.method)(
            self.model, *self.arguments, client_timeout=self.timeout_s, **told
        )


@dataclass(frozen=True)
class Wait:
    """Do nothing for a while."""

    seconds: float

    def perform(self, servers: Mapping[str, Any], sleep: Sleep) -> Any:  # noqa: ARG002
        """Sleep."""
        return sleep(self.seconds)


def with_signature_of(flow: Callable[..., Flow[Any]], method: MethodT) -> MethodT:
    """Give a method that performs a flow the flow's signature; it returns the flow's result."""
    returned = get_args(get_type_hints(flow)["return"])[-1]
    method.__signature__ = inspect.signature(flow).replace(return_annotation=returned)  # type: ignore[attr-defined]
    return method


class FlowRun(Generic[T]):
    """A flow in execution: perform `step` and report its outcome, until `step` is None; then `result` is set."""

    step: Step | None
    result: T

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._advance(lambda: next(flow))

    def succeeded(self, result: Any) -> None:
        """Go on after the step's result.

        Raises:
            ClientError: the flow's own errors.
        """
        self._advance(lambda: self._flow.send(result))

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
