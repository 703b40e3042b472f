"""The requests of both clients as flows: one description of each, which a client performs by calls or by awaiting."""

from __future__ import annotations

from typing import TypedDict, Unpack

from hytrec import signature
from hytrec.contract import Limit
from hytrec_clients import codec
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
        now: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Flow[Recommendation]:
        """Add events, if there are any, and return the best items of the catalogue.

        Args:
            top_k: how many items at most.
            excluded_keys: items never to return.
            exclude_recent: leave out the items of the user's recent window too.
            now: unix seconds to rank for; the server's clock where None.
            options: `expected_event_count`, `request_id` and `timeout_s`, see `RequestOptions`.
        """
        excluded = () if excluded_keys is None else as_sequence(signature.EXCLUDED_KEYS.name, excluded_keys)
        arguments = {
            signature.PUBLIC_NOW.name: now,
            signature.TOP_K.name: top_k,
            signature.EXCLUDED_KEYS.name: excluded if len(excluded) else None,
            signature.EXCLUDE_RECENT.name: exclude_recent,
        }
        decode = codec.decode_recommendation
        return (yield from self.write(signature.RECOMMEND, decode, user_id, events, arguments, **options))

    def forget(self, user_id: str, *, timeout_s: float | None = None) -> Flow[bool]:
        """Delete everything stored of a user, under any model.

        Returns:
            Whether something was left to delete when the successful attempt arrived.
        """
        arguments = {signature.USER_ID.name: user_id}
        return codec.decode_forgotten((yield from self.infer(signature.FORGET, arguments, timeout_s)))

    def backfill(
        self, user_id: str, events: Events, *, chunk: int = DEFAULT_CHUNK, timeout_s: float | None = None
    ) -> Flow[Receipt]:
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
            limits = yield from self.published_limits(self.budget(timeout_s))
            chunk = min(chunk, limits.get(Limit.MAX_EVENTS) or chunk)
        for start in range(receipt.event_count, len(events), chunk):
            part = events.part(start, start + chunk)
            receipt = yield from self.append(user_id, part, expected_event_count=start, timeout_s=timeout_s)
        return receipt

    def ready(self, *, wait_s: float = 0.0) -> Flow[bool]:
        """Whether every endpoint of the server is ready; False where there is no server.

        Args:
            wait_s: how long to keep polling.
        """
        end = self.clock() + wait_s
        while True:
            if (yield from self._ready_now()):
                return True
            if self.clock() >= end:
                return False
            yield Wait(_READY_PAUSE_S)

    def key_types(self, *, timeout_s: float | None = None) -> Flow[codec.KeyTypes]:
        """Whether the server's keys are int or str."""
        contract = yield from self.contract_of(signature.APPEND, self.budget(timeout_s))
        return contract.key_types()

    def _ready_now(self) -> Flow[bool]:
        for endpoint in (*signature.ENSEMBLES, signature.FORGET):
            try:
                if not (yield RemoteCall("is_model_ready", endpoint.name, (), _READY_TIMEOUT_S)):
                    return False
            except RpcFailure:
                return False
        return True
