"""The sync client: performs the flows of `requests` by blocking calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from hytrec_clients.credentials import Credentials, connect
from hytrec_clients.endpoints import DEFAULT_URL
from hytrec_clients.errors import ClientClosed
from hytrec_clients.flow import Flow, FlowRun, require, with_signature_of
from hytrec_clients.patient import PatientServer
from hytrec_clients.requests import Requests
from hytrec_clients.retry import DEFAULT_TIMEOUT_S, RetryPolicy

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(flow: Callable[Concatenate[Requests, P], Flow[T]]) -> Callable[Concatenate[HytrecClient, P], T]:
    """The method that performs the flow of a request."""

    @wraps(flow)
    def method(self: HytrecClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(flow(self._session, *args, **kwargs))

    return with_signature_of(flow, method)


class HytrecClient:
    """Client of a HyTRec server, or of several over one store; may be shared between threads.

        with HytrecClient() as client:
            client.append("ada", Events.one(50, int(time.time())))
            best = client.recommend("ada", top_k=5)
            print(best.item_keys, best.scores)

    Keys are int or str, as the server's vocabulary was built; unknown keys are allowed everywhere. A request is
    retried until it succeeds or its time is over, and its events are applied at most once however often it is sent.
    Every method may raise these:

        InvalidRequest, Unavailable, DeadlineExceeded, NotAuthenticated, ServerMismatch, ServerFailed, ClientClosed

    Users keep their histories when the server gets a new model; the first request of each takes longer. A client that
    pins a model raises `ModelChanged` then, in every method that returns a receipt.

    Args:
        url: `host:port` of the server's gRPC endpoint; several with commas between them, or a sequence. A user's
            requests go to the same one of them, by a hash of the id, as its caches know the user; where it is away, or
            has no response in time, to the next one with the same `request_id`, within the same `timeout_s`.
        timeout_s: time for a request, all attempts together, where the request gives none.
        retry: when to retry.
        model_fingerprint: the model to expect, 32 hex digits; None takes any.
        credentials: TLS, client certificate and token; those of the environment where None, see `Credentials`.

    Raises:
        MissingPackageError: tritonclient is not installed.
        InvalidRequest: `url` is not `host:port`, `timeout_s` is not over 0, or a file of the credentials cannot be
            read.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        model_fingerprint: str | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._session = Requests(
            url=url, timeout_s=timeout_s, policy=retry or RetryPolicy(), model_fingerprint=model_fingerprint
        )
        library = require("tritonclient.grpc")
        self._servers: dict[str, Any] = {
            one: PatientServer(connect(library, one, credentials)) for one in self._session.urls
        }
        self._closed = False

    @property
    def model_fingerprint(self) -> str | None:
        """The pinned model, or that of the last response; None before the first."""
        return self._session.model_fingerprint

    def endpoint_of(self, user_id: str) -> str:
        """The server that a user's requests go to while it is well; the same in every client of the same servers."""
        return self._session.endpoint_of(user_id)

    def accept_model(self, fingerprint: str) -> None:
        """Pin another model, after `ModelChanged`."""
        self._session.accept_model(fingerprint)

    append = _blocking(Requests.append)
    rank = _blocking(Requests.rank)
    recommend = _blocking(Requests.recommend)
    forget = _blocking(Requests.forget)
    backfill = _blocking(Requests.backfill)
    replace_history = _blocking(Requests.replace_history)
    ready = _blocking(Requests.ready)
    key_types = _blocking(Requests.key_types)

    def close(self) -> None:
        """Close the connections; the client cannot be used any more."""
        self._closed = True
        for server in self._servers.values():
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        if self._closed:
            raise ClientClosed("the client is closed; make a new HytrecClient")
        run = FlowRun(flow)
        while (step := run.step) is not None:
            try:
                result: Any = step.perform(self._servers, time.sleep)
            except Exception as error:  # noqa: BLE001 - raised again unless it is a failed remote call
                run.failed(error)
            else:
                run.succeeded(result)
        return run.result
