"""The sync client: performs the flows of `session` by blocking calls."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from hytrec.signature import DEFAULT_TOP_K
from hytrec_clients.codec import KeyTypes
from hytrec_clients.errors import ClientClosed
from hytrec_clients.events import Events, Keys
from hytrec_clients.flow import Flow, FlowRun, channel_options, require
from hytrec_clients.results import Ranking, Receipt, Recommendation
from hytrec_clients.retry import DEFAULT_TIMEOUT_S, RetryPolicy
from hytrec_clients.session import DEFAULT_CHUNK, DEFAULT_URL, RequestOptions, Session

T = TypeVar("T")


class HytrecClient:
    """Client of a HyTRec server; may be shared between threads.

        with HytrecClient() as client:
            client.append("ada", Events.one(50, int(time.time())))
            best = client.recommend("ada", top_k=5)
            print(best.item_keys, best.scores)

    Keys are int or str, as the server's vocabulary was built; unknown keys are allowed everywhere. A request is
    retried until it succeeds or its time is over, and its events are applied at most once however often it is sent.
    Every method that returns a receipt may raise `ModelChanged`, and every method these:

        InvalidRequest, Unavailable, DeadlineExceeded, ServerMismatch, ServerFailed, ClientClosed

    After `ModelChanged` users have to be encoded again from their histories:

        except ModelChanged as change:
            client.accept_model(change.new)
            for user_id, history in histories:
                client.forget(user_id)
                client.backfill(user_id, history)

    Args:
        url: `host:port` of the server's gRPC endpoint.
        timeout_s: time for a request, all attempts together, where the request gives none.
        retry: when to retry.
        model_fingerprint: the model to expect, 32 hex digits. None pins that of the first response.

    Raises:
        MissingPackageError: tritonclient is not installed.
        InvalidRequest: `url` is not `host:port`, or `timeout_s` is not over 0.
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
        library = require("tritonclient.grpc")
        self._triton = library.InferenceServerClient(url, channel_args=channel_options(url))
        self._closed = False

    @property
    def model_fingerprint(self) -> str | None:
        """The model this client is pinned to; None before the first response."""
        return self._session.model_fingerprint

    def accept_model(self, fingerprint: str) -> None:
        """Pin another model, after `ModelChanged`."""
        self._session.accept_model(fingerprint)

    def append(self, user_id: str, events: Events | None = None, **options: Unpack[RequestOptions]) -> Receipt:
        """Add events to a user's state. Without events nothing is written: a way to read the event_count.

        Args:
            options: `expected_event_count`, `request_id` and `timeout_s`, see `RequestOptions`.
        """
        return self._run(self._session.append(user_id, events, **options))

    def rank(
        self,
        user_id: str,
        candidate_keys: Keys,
        events: Events | None = None,
        *,
        now: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking:
        """Add events, if there are any, and score candidates.

        Args:
            now: unix seconds to rank for; the server's clock where None.
            options: `expected_event_count`, `request_id` and `timeout_s`, see `RequestOptions`.
        """
        return self._run(self._session.rank(user_id, candidate_keys, events, now=now, **options))

    def recommend(
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
        """Add events, if there are any, and return the best items of the catalogue.

        Args:
            top_k: how many items at most.
            excluded_keys: items never to return.
            exclude_recent: leave out the items of the user's recent window too.
            now: unix seconds to rank for; the server's clock where None.
            options: `expected_event_count`, `request_id` and `timeout_s`, see `RequestOptions`.
        """
        flow = self._session.recommend(
            user_id,
            events,
            top_k=top_k,
            excluded_keys=excluded_keys,
            exclude_recent=exclude_recent,
            now=now,
            **options,
        )
        return self._run(flow)

    def forget(self, user_id: str, *, timeout_s: float | None = None) -> bool:
        """Delete everything stored of a user, under any model.

        Returns:
            Whether something was left to delete when the successful attempt arrived.
        """
        return self._run(self._session.forget(user_id, timeout_s=timeout_s))

    def backfill(
        self, user_id: str, events: Events, *, chunk: int = DEFAULT_CHUNK, timeout_s: float | None = None
    ) -> Receipt:
        """Feed a whole history in several appends, each guarded by its expected_event_count.

        Begins at the event_count the server has, so a repeated backfill continues where the last one stopped.
        What the server has must be the beginning of this history.

        Args:
            events: the whole history, from the user's first event.
            chunk: maximum events per append; the server's own limit is kept where it publishes one.
            timeout_s: of each append.

        Raises:
            InvalidRequest: the server has more events than the history, or another writer came between.
        """
        return self._run(self._session.backfill(user_id, events, chunk=chunk, timeout_s=timeout_s))

    def ready(self, *, wait_s: float = 0.0) -> bool:
        """Whether every endpoint of the server is ready; False where there is no server.

        Args:
            wait_s: how long to keep polling.
        """
        return self._run(self._session.ready(wait_s=wait_s))

    def key_types(self, *, timeout_s: float | None = None) -> KeyTypes:
        """Whether the server's keys are int or str."""
        return self._run(self._session.key_types(timeout_s=timeout_s))

    def close(self) -> None:
        """Close the connection; the client cannot be used any more."""
        self._closed = True
        self._triton.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        if self._closed:
            raise ClientClosed("the client is closed; make a new HytrecClient")
        run = FlowRun(flow)
        while (step := run.step) is not None:
            try:
                result: Any = step.perform(self._triton, time.sleep)
            except Exception as error:  # noqa: BLE001 - raised again unless it is a failed remote call
                run.failed(error)
            else:
                run.succeeded(result)
        return run.result
