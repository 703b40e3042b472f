"""The requests of both clients as flows, and what a client remembers of its server."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, Unpack

from hytrec import signature
from hytrec.contract import Ensemble, Limit
from hytrec_clients import codec
from hytrec_clients.error_mapping import given_up, rejection
from hytrec_clients.errors import InvalidRequest, ModelChanged, ServerFailed, ServerMismatch
from hytrec_clients.events import Events, Keys, as_sequence
from hytrec_clients.flow import Flow, RemoteCall, RpcFailure, Wait
from hytrec_clients.request_ids import RequestIds
from hytrec_clients.results import Ranking, Receipt, Recommendation
from hytrec_clients.retry import Budget, RetryPolicy

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_CHUNK = 1_024
"""Events per append of `backfill`: far below the default limit, and a fraction of a second to encode."""
_READY_PAUSE_S = 0.1
_READY_TIMEOUT_S = 1.0
_NOT_A_URL = re.compile(r"^[a-z]+://|^$|\s")

Result = TypeVar("Result", Receipt, Ranking, Recommendation)


class RequestOptions(TypedDict, total=False):
    """Keyword arguments of every request that can write events.

    Args:
        expected_event_count: event_count the user's state must have before this request, else nothing is written and
            InvalidRequest names both counts. Unchecked when left out.
        request_id: 16 bytes naming the logical request, random when left out. A consumer that may see one message
            twice gives an id of the message: the server remembers the last 32 of every user and applies none twice.
            Ids with the same first 8 bytes share a client slot and are forgotten sooner, see
            `hytrec_clients.request_ids`.
        timeout_s: for the request with all its attempts.
    """

    expected_event_count: int | None
    request_id: bytes | None
    timeout_s: float | None


class Session:
    """Flows of the requests, the pinned model, and the server's tensors and limits. Safe to share between threads.

    Args:
        url: `host:port` of the server's gRPC endpoint.
        timeout_s: of a request that gives none.
        policy: when to retry.
        model_fingerprint: the model to expect; that of the first response when None.
        clock: monotonic seconds.

    Raises:
        InvalidRequest: `url` is not `host:port`, or `timeout_s` is not over 0.
    """

    def __init__(
        self,
        *,
        url: str,
        timeout_s: float,
        policy: RetryPolicy,
        model_fingerprint: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if _NOT_A_URL.search(url):
            raise InvalidRequest(
                f"url is {url!r}; give host:port of the gRPC endpoint, such as {DEFAULT_URL}", field="url"
            )
        self.url = url
        self.policy = policy
        self.timeout_s = timeout_s
        self._clock = clock
        self._budget(None)  # a bad timeout_s fails here, not at the first request
        self._pinned = model_fingerprint
        self._contracts: dict[str, codec.Contract] = {}
        self._limits: dict[Limit, int] | None = None
        self._request_ids = RequestIds()
        self._lock = threading.Lock()

    @property
    def model_fingerprint(self) -> str | None:
        """The pinned model; None before the first response."""
        return self._pinned

    def accept_model(self, fingerprint: str) -> None:
        """Pin another model."""
        with self._lock:
            self._pinned = fingerprint

    def append(self, user_id: str, events: Events | None, **options: Unpack[RequestOptions]) -> Flow[Receipt]:
        """`hytrec_append`."""
        return (yield from self._write(signature.APPEND, codec.decode_receipt, user_id, events, {}, **options))

    def rank(
        self,
        user_id: str,
        candidate_keys: Keys,
        events: Events | None,
        *,
        now: int | None,
        **options: Unpack[RequestOptions],
    ) -> Flow[Ranking]:
        """`hytrec_rank`."""
        arguments = {signature.CANDIDATE_KEYS.name: candidate_keys, signature.PUBLIC_NOW.name: now}
        return (yield from self._write(signature.RANK, codec.decode_ranking, user_id, events, arguments, **options))

    def recommend(
        self,
        user_id: str,
        events: Events | None,
        *,
        top_k: int,
        excluded_keys: Keys | None,
        exclude_recent: bool,
        now: int | None,
        **options: Unpack[RequestOptions],
    ) -> Flow[Recommendation]:
        """`hytrec_recommend`."""
        excluded = () if excluded_keys is None else as_sequence(signature.EXCLUDED_KEYS.name, excluded_keys)
        arguments = {
            signature.PUBLIC_NOW.name: now,
            signature.TOP_K.name: top_k,
            signature.EXCLUDED_KEYS.name: excluded if len(excluded) else None,
            signature.EXCLUDE_RECENT.name: exclude_recent,
        }
        decode = codec.decode_recommendation
        return (yield from self._write(signature.RECOMMEND, decode, user_id, events, arguments, **options))

    def forget(self, user_id: str, *, timeout_s: float | None) -> Flow[bool]:
        """`hytrec_forget`. Works whatever model is pinned."""
        arguments = {signature.USER_ID.name: user_id}
        return codec.decode_forgotten((yield from self._infer(signature.FORGET, arguments, timeout_s)))

    def backfill(self, user_id: str, events: Events, *, chunk: int, timeout_s: float | None) -> Flow[Receipt]:
        """A long history in expected_event_count-guarded appends, from where an earlier backfill stopped."""
        if chunk < 1:
            raise InvalidRequest(f"chunk is {chunk}; it must be at least 1 event", field="chunk")
        receipt = yield from self.append(user_id, None, timeout_s=timeout_s)
        if receipt.event_count > len(events):
            raise InvalidRequest(
                f"user_id {user_id!r} has {receipt.event_count} events on the server and the history given "
                f"{len(events)}; give the whole history from its first event, or forget the user first",
                field="user_id",
            )
        if receipt.event_count < len(events):
            limits = yield from self._published_limits(self._budget(timeout_s))
            chunk = min(chunk, limits.get(Limit.MAX_EVENTS) or chunk)
        for start in range(receipt.event_count, len(events), chunk):
            part = events.part(start, start + chunk)
            receipt = yield from self.append(user_id, part, expected_event_count=start, timeout_s=timeout_s)
        return receipt

    def ready(self, *, wait_s: float) -> Flow[bool]:
        """Whether every endpoint is ready; polls until `wait_s` is over."""
        end = self._clock() + wait_s
        while True:
            if (yield from self._ready_now()):
                return True
            if self._clock() >= end:
                return False
            yield Wait(_READY_PAUSE_S)

    def key_types(self, *, timeout_s: float | None) -> Flow[codec.KeyTypes]:
        """Types of the server's keys."""
        contract = yield from self._contract(signature.APPEND, self._budget(timeout_s))
        return contract.key_types()

    def _ready_now(self) -> Flow[bool]:
        for endpoint in (*signature.ENSEMBLES, signature.FORGET):
            try:
                if not (yield RemoteCall("is_model_ready", endpoint.name, (), _READY_TIMEOUT_S)):
                    return False
            except RpcFailure:
                return False
        return True

    def _write(
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
        result = decode((yield from self._infer(endpoint, arguments, timeout_s)))
        if own_id:
            self._request_ids.release(own_id)
        self._check_model(result)
        return result

    def _infer(self, endpoint: codec.Endpoint, arguments: dict[str, Any], timeout_s: float | None) -> Flow[Any]:
        budget = self._budget(timeout_s)
        contract = yield from self._contract(endpoint, budget)
        inputs = codec.encode(endpoint, arguments, contract)
        request_id = arguments.get(signature.REQUEST_ID.name)
        try:
            return (yield from self._retried("infer", endpoint, inputs, budget=budget, request_id=request_id))
        except InvalidRequest:
            self._contracts.pop(endpoint.name, None)  # a new build may have keys of the other type, or other limits
            self._limits = None
            raise

    def _contract(self, endpoint: codec.Endpoint, budget: Budget) -> Flow[codec.Contract]:
        """The endpoint's dtypes: fetched once, then remembered."""
        contract = self._contracts.get(endpoint.name)
        if contract is None:
            metadata = yield from self._retried("get_model_metadata", endpoint, budget=budget)
            contract = self._contracts[endpoint.name] = codec.Contract.of(endpoint, metadata)
            budget.attempts = 0
        return contract

    def _published_limits(self, budget: Budget) -> Flow[dict[Limit, int]]:
        """Limits of a request: fetched once, then remembered; those the server does not publish are left out."""
        limits = self._limits
        if limits is None:
            try:
                config = yield from self._retried("get_model_config", signature.APPEND, budget=budget)
                limits = codec.limits_of(config)
            except (ServerMismatch, ServerFailed):  # a gateway need not let ModelConfig through
                limits = {}
            self._limits = limits
        return limits

    def _retried(
        self, method: str, endpoint: codec.Endpoint, *arguments: Any, budget: Budget, request_id: bytes | None = None
    ) -> Flow[Any]:
        """Send a remote call until it succeeds, is rejected for good, or is out of time."""
        reported: RpcFailure | None = None
        while True:
            attempt_s = budget.attempt_timeout_s()
            try:
                return (yield RemoteCall(method, endpoint.name, arguments, attempt_s))
            except RpcFailure as failure:
                if not failure.retryable:
                    raise rejection(endpoint.name, self.url, failure) from None
                # A last attempt cut short by the end of the time says less than the failure before it.
                if reported is None or failure.code != "DEADLINE_EXCEEDED" or attempt_s >= budget.policy.min_attempt_s:
                    reported = failure
                pause_s = budget.backoff_s()
                if pause_s is None:
                    raise given_up(endpoint.name, self.url, reported, budget, request_id) from None
            yield Wait(pause_s)

    def _check_model(self, result: Receipt | Ranking | Recommendation) -> None:
        """Pin the model of the first response; raise on a response of another.

        Raises:
            ModelChanged: the response is of another model.
        """
        receipt = result if isinstance(result, Receipt) else result.receipt
        with self._lock:
            if self._pinned is None:
                self._pinned = receipt.model_fingerprint
            pinned = self._pinned
        if pinned != receipt.model_fingerprint:
            self._contracts.clear()
            self._limits = None
            raise ModelChanged(
                f"the server runs model {receipt.model_fingerprint}, this client is pinned to {pinned}; user states of "
                "the old model are not used any more: call accept_model(error.new), then forget and backfill each user "
                "from the whole history",
                old=pinned,
                new=receipt.model_fingerprint,
                result=result,
            )

    def _budget(self, timeout_s: float | None) -> Budget:
        own_s = self.timeout_s if timeout_s is None else timeout_s
        return Budget(policy=self.policy, timeout_s=own_s, clock=self._clock)
