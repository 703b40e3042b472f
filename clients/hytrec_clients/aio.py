"""The asyncio client: performs the flows of `requests` by awaiting them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from hytrec_clients.credentials import Credentials, connect
from hytrec_clients.endpoints import DEFAULT_URL
from hytrec_clients.errors import ClientClosed, ClientError
from hytrec_clients.flow import Flow, FlowRun, require, with_signature_of
from hytrec_clients.patient import PatientAsyncServer
from hytrec_clients.requests import Requests
from hytrec_clients.retry import DEFAULT_TIMEOUT_S, RetryPolicy

P = ParamSpec("P")
T = TypeVar("T")


def _awaited(
    flow: Callable[Concatenate[Requests, P], Flow[T]],
) -> Callable[Concatenate[AsyncHytrecClient, P], Coroutine[Any, Any, T]]:
    """The method that performs the flow of a request."""

    @wraps(flow)
    async def method(self: AsyncHytrecClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(flow(self._session, *args, **kwargs))

    return with_signature_of(flow, method)


class AsyncHytrecClient:
    """`HytrecClient` for asyncio: the same methods, arguments and errors, awaited.

        async with AsyncHytrecClient() as client:
            best = await client.recommend("ada", top_k=5)

    Belongs to the event loop of its first request; any number of requests may be in flight in it. A request whose task
    is cancelled is left to its end on the server; whether its events were applied is then unknown, as after a lost
    response.

    Args and Raises: those of `HytrecClient`.
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
        self._library = require("tritonclient.grpc.aio")
        self._credentials = credentials
        self._servers: dict[str, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
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

    append = _awaited(Requests.append)
    rank = _awaited(Requests.rank)
    recommend = _awaited(Requests.recommend)
    forget = _awaited(Requests.forget)
    backfill = _awaited(Requests.backfill)
    replace_history = _awaited(Requests.replace_history)
    ready = _awaited(Requests.ready)
    key_types = _awaited(Requests.key_types)

    async def close(self) -> None:
        """Close the connections; the client cannot be used any more."""
        self._closed = True
        for server in self._servers.values():
            await server.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        if self._closed:
            raise ClientClosed("the client is closed; make a new AsyncHytrecClient")
        if not self._servers:  # made here because a channel belongs to the running event loop
            self._servers = {
                url: PatientAsyncServer(connect(self._library, url, self._credentials)) for url in self._session.urls
            }
            self._loop = asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise ClientError(
                "the client was first used in another event loop and cannot leave it; "
                "make a new AsyncHytrecClient in every event loop, such as one in each asyncio.run"
            )
        run = FlowRun(flow)
        while (step := run.step) is not None:
            try:
                result: Any = await step.perform(self._servers, asyncio.sleep)
            except Exception as error:  # noqa: BLE001 - raised again unless it is a failed remote call
                run.failed(error)
            else:
                run.succeeded(result)
        return run.result
