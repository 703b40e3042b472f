"""The requests of both clients as flows: one description of each, which a client performs by calls or by awaiting."""

from __future__ import annotations

from typing import TypedDict, Unpack

from hytrec import signature
from hytrec.contract import Limit
from hytrec_clients import codec
from hytrec_clients.endpoints import Route
from hytrec_clients.error_mapping import rejection
from hytrec_clients.errors import InvalidRequest
from hytrec_clients.events import Events, Keys, as_sequence
from hytrec_clients.flow import Flow, RemoteCall, RpcFailure, Wait
from hytrec_clients.results import Ranking, Receipt, Recommendation
from hytrec_clients.session import Session

DEFAULT_CHUNK = 1_024
"""Events per append of `backfill`: far below the default limit, and a fraction of a second to encode."""
_READY_PAUSE_S = 0.1
_READY_TIMEOUT_S = 1.0


class RequestOptions(TypedDict, total=False):
    """Keyword arguments of every request that can write events.

    Args:
        expected_event_count: event_count the user's state must have before this request, else nothing is written and
            InvalidRequest names both counts. Unchecked when left out.
        request_id: 16 bytes naming the logical request, random when left out. A consumer that may see one message
            twice gives `stream_request_id` of the message, which is never applied twice, or 16 bytes of its own, of
            which the server remembers the last 32 of every user.
        timeout_s: for the request with all its attempts.
    """

    expected_event_count: int | None
    request_id: bytes | None
    timeout_s: float | None


class Requests(Session):
    """Public methods of the clients; what is a flow of a result here is the result there."""

    def append(self, user_id: str, events: Events | None = None, **options: Unpack[RequestOptions]) -> Flow[Receipt]:
        """Add events to a user's state. Without events nothing is written: a way to read the event_count.

        Args:
            options: `expected_event_count`, `request_id` and `timeout_s`, see `RequestOptions`.
        """
        return (yield from self.write(signature.APPEND, codec.decode_receipt, user_id, events, {}, **options))

    def replace_history(
        self, user_id: str, events: Events, *, chunk: int = DEFAULT_CHUNK, **options: Unpack[RequestOptions]
    ) -> Flow[Receipt]:
        """Replace a user's whole history: merge a visitor into a customer, take events back, correct them.

        The stored events and states go at once. A history longer than `chunk` is replaced by its beginning, and the
        rest is appended, each part guarded by the event_count before it.

        Args:
            events: the whole history, one event at least.
            chunk: maximum events per request; the server's own limit is kept where it publishes one.
            options: `expected_event_count`, of the history that is replaced, `request_id`, of the first request, and
                `timeout_s`, of each; see `RequestOptions`.

        Raises:
            InvalidRequest: there are no events, the user has another event_count, or another writer came between.
        """
        if not len(events):
            raise InvalidRequest(
                "events is empty; give the user's whole history, or call forget", field=signature.ITEM_KEYS.name
            )
        _check_chunk(chunk)
        chunk = yield from self._chunk(chunk, options.get("timeout_s"))
        replace = {signature.REPLACE.name: True}
        first = events.part(0, chunk)
        receipt = yield from self.write(signature.APPEND, codec.decode_receipt, user_id, first, replace, **options)
        return (yield from self._append_rest(user_id, events, receipt, len(first), chunk, options.get("timeout_s")))

    def rank(
        self,
        user_id: str,
        candidate_keys: Keys,
        events: Events | None = None,
        *,
        now: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Flow[Ranking]:
        """Add events, if there are any, and score candidates.

        Args:
            now: unix seconds to rank for; the server's clock where None.
            options: `expected_event_count`, `request_id` and `timeout_s`, see `RequestOptions`.
        """
        arguments = {signature.CANDIDATE_KEYS.name: candidate_keys, signature.PUBLIC_NOW.name: now}
        return (yield from self.write(signature.RANK, codec.decode_ranking, user_id, events, arguments, **options))

    def recommend(
        self,
        user_id: str,
        events: Events | None = None,
        *,
        top_k: int = signature.DEFAULT_TOP_K,
        excluded_keys: Keys | None = None,
        exclude_recent: bool = False,
        eligible: str | None = None,
        now: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Flow[Recommendation]:
        """Add events, if there are any, and return the best items of the catalogue.

        Args:
            top_k: how many items at most.
            excluded_keys: items never to return.
            exclude_recent: leave out the items of the user's recent window too.
            eligible: name of the server's list of items to choose from (`hytrec-export serve --eligible`); the whole
                catalogue where None.
            now: unix seconds to rank for; the server's clock where None.
            options: `expected_event_count`, `request_id` and `timeout_s`, see `RequestOptions`.
        """
        excluded = () if excluded_keys is None else as_sequence(signature.EXCLUDED_KEYS.name, excluded_keys)
        arguments = {
            signature.PUBLIC_NOW.name: now,
            signature.TOP_K.name: top_k,
            signature.EXCLUDED_KEYS.name: excluded if len(excluded) else None,
            signature.EXCLUDE_RECENT.name: exclude_recent,
            signature.ELIGIBLE.name: eligible,
        }
        decode = codec.decode_recommendation
        return (yield from self.write(signature.RECOMMEND, decode, user_id, events, arguments, **options))

    def forget(self, user_id: str, *, timeout_s: float | None = None) -> Flow[bool]:
        """Delete everything stored of a user, under any model.

        Returns:
            Whether something was left to delete when the successful attempt arrived.
        """
        arguments = {signature.USER_ID.name: user_id}
        route = Route(self.endpoints, user_id)
        return codec.decode_forgotten((yield from self.infer(signature.FORGET, arguments, timeout_s, route)))

    def backfill(
        self,
        user_id: str,
        events: Events,
        *,
        chunk: int = DEFAULT_CHUNK,
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> Flow[Receipt]:
        """Feed a whole history in several appends, each guarded by its expected_event_count.

        Begins at the event_count the server has, so a repeated backfill continues where the last one stopped.
        What the server has must be the beginning of this history, unless it is replaced.

        Args:
            events: the whole history, from the user's first event.
            chunk: maximum events per append; the server's own limit is kept where it publishes one.
            replace: for a user who has live events already: they go, so the history has to hold them too. Refused when
                another event comes between.
            timeout_s: of each append.

        Raises:
            InvalidRequest: the server has more events than the history, or another writer came between.
        """
        _check_chunk(chunk)
        receipt = yield from self.append(user_id, None, timeout_s=timeout_s)
        if replace and receipt.event_count and len(events):
            count = receipt.event_count
            options = RequestOptions(expected_event_count=count, timeout_s=timeout_s)
            return (yield from self.replace_history(user_id, events, chunk=chunk, **options))
        if receipt.event_count > len(events):
            raise InvalidRequest(
                f"user_id {user_id!r} has {receipt.event_count} events on the server and the history given "
                f"{len(events)}; give the whole history from its first event, or replace the user's",
                field="user_id",
            )
        if receipt.event_count < len(events):
            chunk = yield from self._chunk(chunk, timeout_s)
        return (yield from self._append_rest(user_id, events, receipt, receipt.event_count, chunk, timeout_s))

    def _append_rest(
        self, user_id: str, events: Events, receipt: Receipt, start: int, chunk: int, timeout_s: float | None
    ) -> Flow[Receipt]:
        """Append what comes after the first `start` events, in order."""
        for at in range(start, len(events), chunk):
            part = events.part(at, at + chunk)
            receipt = yield from self.append(user_id, part, expected_event_count=at, timeout_s=timeout_s)
        return receipt

    def _chunk(self, chunk: int, timeout_s: float | None) -> Flow[int]:
        """Events of a request, within the server's limit."""
        limits = yield from self.published_limits(self.budget(timeout_s))
        return min(chunk, limits.get(Limit.MAX_EVENTS) or chunk)

    def ready(self, *, wait_s: float = 0.0) -> Flow[bool]:
        """Whether every endpoint of a server is ready, of any one where there are several; False without a server.

        Args:
            wait_s: how long to keep polling.

        Raises:
            NotAuthenticated: it cannot be asked.
        """
        end = self.clock() + wait_s
        while True:
            for url in self.urls:
                if (yield from self._ready_now(url)):
                    return True
            if self.clock() >= end:
                return False
            yield Wait(_READY_PAUSE_S)

    def key_types(self, *, timeout_s: float | None = None) -> Flow[codec.KeyTypes]:
        """Whether the server's keys are int or str."""
        contract = yield from self.contract_of(signature.APPEND, self.budget(timeout_s))
        return contract.key_types()

    def _ready_now(self, url: str) -> Flow[bool]:
        for endpoint in (*signature.ENSEMBLES, signature.FORGET):
            try:
                if not (yield RemoteCall("is_model_ready", endpoint.name, (), _READY_TIMEOUT_S, url)):
                    return False
            except RpcFailure as failure:
                if failure.not_authenticated:
                    raise rejection(endpoint.name, url, failure) from None
                return False
        return True


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise InvalidRequest(f"chunk is {chunk}; it must be at least 1 event", field="chunk")
