"""The asyncio client: performs the flows of `session` by awaiting them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from hytrec.signature import DEFAULT_TOP_K
from hytrec_clients.codec import KeyTypes
from hytrec_clients.errors import ClientClosed, ClientError
from hytrec_clients.events import Events, Keys
from hytrec_clients.flow import Flow, FlowRun, channel_options, require
from hytrec_clients.results import Ranking, Receipt, Recommendation
from hytrec_clients.retry import DEFAULT_TIMEOUT_S, RetryPolicy
from hytrec_clients.session import DEFAULT_CHUNK, DEFAULT_URL, RequestOptions, Session

T = TypeVar("T")


class AsyncHytrecClient:
    """`HytrecClient` for asyncio: the same methods, arguments and errors, awaited.

        async with AsyncHytrecClient() as client:
            best = await client.recommend("ada", top_k=5)

    Belongs to the event loop of its first request; any number of requests may be in flight in it. A cancelled request
    is cancelled on the wire; whether its events were applied is then unknown, as after a lost response.

    Args and Raises: those of `HytrecClient`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        model_fingerprint: str | None = None,
    ) -> None:
        self._session = Session(
            url=url, timeout_s=timeout_s, policy=retry or RetryPolicy(), model_fingerprint=model_fingerprint
        )
        self._library = require("tritonclient.grpc.aio")
        self._triton: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def model_fingerprint(self) -> str | None:
        """The model this client is pinned to; None before the first response."""
        return self._session.model_fingerprint

    def accept_model(self, fingerprint: str) -> None:
        """Pin another model, after `ModelChanged`."""
        self._session.accept_model(fingerprint)

    async def append(self, user_id: str, events: Events | None = None, **options: Unpack[RequestOptions]) -> Receipt:
        """See `HytrecClient.append`."""
        return await self._run(self._session.append(user_id, events, **options))

    async def rank(
        self,
        user_id: str,
        candidate_keys: Keys,
        events: Events | None = None,
        *,
        now: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking:
        """See `HytrecClient.rank`."""
        return await self._run(self._session.rank(user_id, candidate_keys, events, now=now, **options))

    async def recommend(
        self,
        user_id: str,
        events: Events | None = None,
        *,
        top_k: int = DEFAULT_TOP_K,
        excluded_keys: Keys | None = None,
        exclude_recent: bool = False,
        now: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Recommendation:
        """See `HytrecClient.recommend`."""
        flow = self._session.recommend(
            user_id,
            events,
            top_k=top_k,
            excluded_keys=excluded_keys,
            exclude_recent=exclude_recent,
            now=now,
            **options,
        )
        return await self._run(flow)

    async def forget(self, user_id: str, *, timeout_s: float | None = None) -> bool:
        """See `HytrecClient.forget`."""
        return await self._run(self._session.forget(user_id, timeout_s=timeout_s))

    async def backfill(
        self, user_id: str, events: Events, *, chunk: int = DEFAULT_CHUNK, timeout_s: float | None = None
    ) -> Receipt:
        """See `HytrecClient.backfill`."""
        return await self._run(self._session.backfill(user_id, events, chunk=chunk, timeout_s=timeout_s))

    async def ready(self, *, wait_s: float = 0.0) -> bool:
        """See `HytrecClient.ready`."""
        return await self._run(self._session.ready(wait_s=wait_s))

    async def key_types(self, *, timeout_s: float | None = None) -> KeyTypes:
        """See `HytrecClient.key_types`."""
        return await self._run(self._session.key_types(timeout_s=timeout_s))

    async def close(self) -> None:
        """Close the connection; the client cannot be used any more."""
        self._closed = True
        if self._triton is not None:
            await self._triton.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        if self._closed:
            raise ClientClosed("the client is closed; make a new AsyncHytrecClient")
        if self._triton is None:  # made here because a channel belongs to the running event loop
            url = self._session.url
            self._triton = self._library.InferenceServerClient(url, channel_args=channel_options(url))
            self._loop = asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise ClientError(
                "the client was first used in another event loop and cannot leave it; "
                "make a new AsyncHytrecClient in every event loop, such as one in each asyncio.run"
            )
        run = FlowRun(flow)
        while (step := run.step) is not None:
            try:
                result: Any = await step.perform(self._triton, asyncio.sleep)
            except Exception as error:  # noqa: BLE001 - raised again unless it is a failed remote call
                run.failed(error)
            else:
                run.succeeded(result)
        return run.result
