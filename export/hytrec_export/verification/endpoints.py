"""A live server as one user sees it: users by id through `HytrecClient`, sessions by Triton's sequence id."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Ensemble, StateStatus
from hytrec.signature import (
    BEHAVIOR_KEYS,
    CANDIDATE_KEYS,
    EXCLUDED_KEYS,
    ITEM_KEYS,
    MODEL_FINGERPRINT,
    NEW_EVENT_COUNT,
    PUBLIC_NOW,
    RETURNED_KEYS,
    RETURNED_SCORES,
    SCORES,
    SESSION_ENSEMBLES,
    TIMES,
    TOP_K,
)
from hytrec_clients import Events, HytrecClient, Ranking, Receipt, Recommendation, RetryPolicy
from hytrec_clients.codec import Contract, encode
from hytrec_clients.credentials import connect
from hytrec_clients.error_mapping import rejection
from hytrec_clients.flow import failure_of
from hytrec_export.errors import OptionError, ServerError
from hytrec_export.optional import require

TIMEOUT_S = 60.0
ATTEMPTS = 3
"""A busy server rejects requests as UNAVAILABLE; the same request is sent again."""
_SESSION_APPEND, _SESSION_RANK, _SESSION_RECOMMEND = SESSION_ENSEMBLES


class Endpoints:
    """A connection to a server; TLS and token are those of the environment (`hytrec_clients.Credentials`).

    Args:
        url: host:port of its gRPC endpoint, with or without grpc:// before it.

    Raises:
        OptionError: `url` is none.
        MissingPackageError: tritonclient is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"grpc://{url}")
        if parts.scheme != "grpc" or not parts.hostname or not parts.port or parts.path not in ("", "/"):
            raise OptionError(f"the server's address is {url!r}; write it as grpc://host:8001, its gRPC port")
        grpc = require("tritonclient.grpc", extra="client")
        self.url = parts.netloc
        self._failure: type[Exception] = grpc.InferenceServerException
        self._triton: Any = connect(grpc, self.url, None)
        self._client = HytrecClient(self.url, timeout_s=TIMEOUT_S, retry=RetryPolicy(max_attempts=ATTEMPTS))
        self._contracts: dict[str, Contract] = {}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        self._triton.close()

    def check_ready(self) -> None:
        """Raises: ServerError: no server answers, or it is not ready."""
        try:
            ready = self._triton.is_server_ready(client_timeout=TIMEOUT_S)
        except self._failure as error:
            if (failure := failure_of(error)).not_authenticated:
                raise ServerError(str(rejection("", self.url, failure))) from error
            raise ServerError(
                f"no Triton server answers at {self.url} ({failure.message}); start it, or give its gRPC port"
            ) from error
        if not ready:
            raise ServerError(f"the server at {self.url} is not ready; wait until it has loaded its models")

    def new_user(self, *, session: bool) -> NewUser:
        """A new user, or a new session."""
        return _Session(self) if session else _User(self._client)

    def infer(self, endpoint: Ensemble, arguments: dict[str, Any], **options: Any) -> Any:
        """Run an endpoint that `HytrecClient` does not know: an InferResult.

        Raises:
            ServerError: it failed, in ATTEMPTS attempts where it was UNAVAILABLE.
            ClientError: it has another contract, or an argument is of the wrong type.
        """
        attempt = 1
        while True:
            try:
                if endpoint.name not in self._contracts:
                    metadata = self._triton.get_model_metadata(endpoint.name, client_timeout=TIMEOUT_S)
                    self._contracts[endpoint.name] = Contract.of(endpoint, metadata)
                inputs = encode(endpoint, arguments, self._contracts[endpoint.name])
                return self._triton.infer(endpoint.name, inputs, client_timeout=TIMEOUT_S, **options)
            except self._failure as error:
                failure = failure_of(error)
                if attempt == ATTEMPTS or failure.code != "UNAVAILABLE":
                    raise ServerError(
                        f"{endpoint.name} of the server at {self.url} failed ({failure}); see the server's log"
                    ) from error
                attempt += 1


@dataclass(frozen=True)
class _User:
    """By user id, through the state store; every method raises ClientError where the request fails."""

    _client: HytrecClient
    _id: str = field(default_factory=lambda: f"hytrec-verify-{secrets.token_hex(16)}")

    def append(self, events: Events) -> None:
        self._client.append(self._id, events)

    def rank(self, candidate_keys: NDArray[Any], now_s: int) -> Ranking:
        return self._client.rank(self._id, candidate_keys, now=now_s)

    def recommend(self, excluded_keys: NDArray[Any], now_s: int, top_k: int) -> Recommendation:
        return self._client.recommend(self._id, excluded_keys=excluded_keys, now=now_s, top_k=top_k)

    def close(self) -> None:
        self._client.forget(self._id)


@dataclass
class _Session:
    """By sequence id, in the server's memory; every method raises ServerError or ClientError."""

    _endpoints: Endpoints
    _id: int = field(default_factory=lambda: secrets.randbelow((1 << 63) - 1) + 1)
    _started: bool = False

    def append(self, events: Events) -> None:
        arguments = {ITEM_KEYS: events.item_keys, BEHAVIOR_KEYS: events.behavior_keys, TIMES: events.times}
        self._infer(_SESSION_APPEND, {tensor.name: values for tensor, values in arguments.items()})

    def rank(self, candidate_keys: NDArray[Any], now_s: int) -> Ranking:
        result = self._infer(_SESSION_RANK, {CANDIDATE_KEYS.name: candidate_keys, PUBLIC_NOW.name: now_s})
        return Ranking(scores=result.as_numpy(SCORES.name)[0], receipt=_receipt(result))

    def recommend(self, excluded_keys: NDArray[Any], now_s: int, top_k: int) -> Recommendation:
        arguments = {EXCLUDED_KEYS.name: excluded_keys, PUBLIC_NOW.name: now_s, TOP_K.name: top_k}
        result = self._infer(_SESSION_RECOMMEND, arguments)
        keys, scores = (result.as_numpy(tensor.name)[0] for tensor in (RETURNED_KEYS, RETURNED_SCORES))
        return Recommendation(item_keys=tuple(keys.tolist()), scores=scores, receipt=_receipt(result))

    def close(self) -> None:
        if self._started:
            self._infer(_SESSION_APPEND, {TIMES.name: np.zeros(0, np.int64)}, sequence_end=True)

    def _infer(self, endpoint: Ensemble, arguments: dict[str, Any], **options: Any) -> Any:
        start, self._started = not self._started, True
        return self._endpoints.infer(endpoint, arguments, sequence_id=self._id, sequence_start=start, **options)


NewUser = _User | _Session


def _receipt(result: Any) -> Receipt:
    """Of a session, which is always there and applies every event."""
    return Receipt(
        event_count=int(result.as_numpy(NEW_EVENT_COUNT.name)[0, 0]),
        applied=True,
        model_fingerprint=result.as_numpy(MODEL_FINGERPRINT.name)[0].tobytes().hex(),
        state_status=StateStatus.FOUND,
    )
