"""What a client remembers of its servers, and how it sends a request until it succeeds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hytrec import signature
from hytrec.contract import Ensemble, Limit
from hytrec_clients import codec
from hytrec_clients.endpoints import PROBE_S, Endpoints, Route, parse_urls, rendezvous_order
from hytrec_clients.error_mapping import given_up, rejection
from hytrec_clients.errors import InvalidRequest, ModelChanged, ServerFailed, ServerMismatch
from hytrec_clients.events import Events
from hytrec_clients.flow import Flow, RemoteCall, RpcFailure, Wait
from hytrec_clients.request_ids import RequestIds
from hytrec_clients.results import Ranking, Receipt, Recommendation
from hytrec_clients.retry import Budget, RetryPolicy

Result = TypeVar("Result", Receipt, Ranking, Recommendation)


class Session:
    """The pinned model, and the servers' tensors, limits and health. Safe to share between threads.

    Args:
        url: `host:port` of the server's gRPC endpoint; several with commas between them, or a sequence.
        timeout_s: of a request that gives none.
        policy: when to retry.
        model_fingerprint: the model to expect; any when None.
        clock: monotonic seconds.

    Raises:
        InvalidRequest: `url` is not `host:port`, or `timeout_s` is not over 0.
    """

    def __init__(
        self,
        *,
        url: str | Sequence[str],
        timeout_s: float,
        policy: RetryPolicy,
        model_fingerprint: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoints = Endpoints(urls=parse_urls(url), max_pause_s=policy.max_pause_s, clock=clock)
        self.policy = policy
        self.timeout_s = timeout_s
        self.clock = clock
        self.budget(None)  # a bad timeout_s fails here, not at the first request
        self._pins = model_fingerprint is not None
        self._known = model_fingerprint
        self._served: dict[str, str] = {}
        self._contracts: dict[str, codec.Contract] = {}
        self._limits: dict[Limit, int] | None = None
        self._request_ids = RequestIds()
        self._lock = threading.Lock()

    @property
    def model_fingerprint(self) -> str | None:
        """The pinned model, or that of the last response; None before the first."""
        return self._known

    def accept_model(self, fingerprint: str) -> None:
        """Pin another model."""
        with self._lock:
            self._known, self._pins = fingerprint, True

    @property
    def urls(self) -> tuple[str, ...]:
        """`host:port` of every server."""
        return self.endpoints.urls

    def endpoint_of(self, key: str) -> str:
        """The server that a user's requests go to while it is well."""
        return rendezvous_order(self.urls, key)[0]

    def write(
        self,
        endpoint: Ensemble,
        decode: Callable[[Any], Result],
        user_id: str,
        events: Events | None,
        own: dict[str, Any],
        *,
        expected_event_count: int | None = None,
        request_id: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Flow[Result]:
        """One logical request to an ensemble: one request_id, however often it is sent."""
        own_id = self._request_ids.take() if request_id is None else None
        arguments = own | {
            signature.USER_ID.name: user_id,
            signature.REQUEST_ID.name: own_id or request_id,
            signature.EXPECTED_EVENT_COUNT.name: expected_event_count,
        }
        if events is not None and len(events):
            arguments[signature.ITEM_KEYS.name] = events.item_keys
            arguments[signature.BEHAVIOR_KEYS.name] = events.behavior_keys
            arguments[signature.TIMES.name] = events.times
        route = Route(self.endpoints, user_id)
        result = decode((yield from self.infer(endpoint, arguments, timeout_s, route)))
        if own_id:
            self._request_ids.release(own_id)
        self._check_model(result, route.url)
        return result

    def infer(
        self, endpoint: codec.Endpoint, arguments: dict[str, Any], timeout_s: float | None, route: Route
    ) -> Flow[Any]:
        """A model's response to the arguments that are not None, of a server of the route."""
        budget = self.budget(timeout_s)
        contract = yield from self.contract_of(endpoint, budget, route)
        inputs = codec.encode(endpoint, arguments, contract)
        request_id = arguments.get(signature.REQUEST_ID.name)
        try:
            call = self._retried("infer", endpoint, inputs, budget=budget, route=route, request_id=request_id)
            return (yield from call)
        except InvalidRequest:
            self._contracts.pop(endpoint.name, None)  # a new build may have keys of the other type, or other limits
            self._limits = None
            raise

    def contract_of(self, endpoint: codec.Endpoint, budget: Budget, route: Route | None = None) -> Flow[codec.Contract]:
        """The endpoint's dtypes: fetched once, then remembered."""
        contract = self._contracts.get(endpoint.name)
        if contract is None:
            route = route or Route(self.endpoints, "")
            metadata = yield from self._retried("get_model_metadata", endpoint, budget=budget, route=route)
            contract = self._contracts[endpoint.name] = codec.Contract.of(endpoint, metadata)
            budget.attempts = 0
        return contract

    def published_limits(self, budget: Budget) -> Flow[dict[Limit, int]]:
        """Limits of a request: fetched once, then remembered; those the server does not publish are left out."""
        limits = self._limits
        if limits is None:
            try:
                route = Route(self.endpoints, "")
                config = yield from self._retried("get_model_config", signature.APPEND, budget=budget, route=route)
                limits = codec.limits_of(config)
            except (ServerMismatch, ServerFailed):  # a gateway need not let ModelConfig through
                limits = {}
            self._limits = limits
        return limits

    def _retried(
        self,
        method: str,
        endpoint: codec.Endpoint,
        *arguments: Any,
        budget: Budget,
        route: Route,
        request_id: bytes | None = None,
    ) -> Flow[Any]:
        """Send a remote call until it succeeds, is rejected for good, or is out of time."""
        reported: RpcFailure | None = None
        while True:
            yield from self._turn_to_server(route, budget)
            attempt_s = budget.attempt_timeout_s()
            try:
                response = yield RemoteCall(method, endpoint.name, arguments, attempt_s, route.url)
            except RpcFailure as failure:
                if not failure.retryable:
                    raise rejection(endpoint.name, route.url, failure) from None
                # A last attempt cut short by the end of the time says less than the failure before it, be it that there
                # was no response, or that the server did not begin it any more.
                if reported is None or attempt_s >= budget.policy.min_attempt_s:
                    reported = failure
                pause_s = budget.backoff_s(at_once=route.failed(failure))
                if pause_s is None:
                    raise given_up(endpoint.name, ", ".join(route.tried), reported, budget, request_id) from None
            else:
                self.endpoints.succeeded(route.url)
                return response
            if pause_s:
                yield Wait(pause_s)

    def _turn_to_server(self, route: Route, budget: Budget) -> Flow[None]:
        """Choose the server of the next attempt; one that was left alone is asked first whether it is ready."""
        while True:
            url = route.choose()
            if not self.endpoints.claim_probe(url):
                return route.use(url)
            timeout_s = min(PROBE_S, budget.left_s() / 2)
            try:
                ready = yield RemoteCall("is_model_ready", signature.APPEND.name, (), timeout_s, url)
            except RpcFailure as failure:
                ready = failure.not_authenticated  # the request itself will say so
            self.endpoints.probed(url, ready=ready)

    def _check_model(self, result: Receipt | Ranking | Recommendation, url: str) -> None:
        """Remember the model of a server's response, whose limits and keys may be others; raise if another is pinned.

        Raises:
            ModelChanged: the response is of another model than the pinned one.
        """
        receipt = result if isinstance(result, Receipt) else result.receipt
        with self._lock:
            pinned = self._known if self._pins else None
            if pinned is None:
                self._known = receipt.model_fingerprint
            before = pinned or self._served.get(url)
            self._served[url] = receipt.model_fingerprint
        if before is None or before == receipt.model_fingerprint:
            return
        self._contracts.clear()
        self._limits = None
        if pinned is not None:
            raise ModelChanged(
                f"the server runs model {receipt.model_fingerprint}, this client is pinned to {pinned}; "
                "users keep their histories: call accept_model(error.new) to go on, or make the client without "
                "model_fingerprint",
                old=pinned,
                new=receipt.model_fingerprint,
                result=result,
            )

    def budget(self, timeout_s: float | None) -> Budget:
        """The time of a request that begins now."""
        own_s = self.timeout_s if timeout_s is None else timeout_s
        return Budget(policy=self.policy, timeout_s=own_s, clock=self.clock)
