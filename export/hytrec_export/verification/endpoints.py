"""The public endpoints of a live server, as one user sees them; nothing of the server is assumed but its contract."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from hytrec.signature import (
    APPEND,
    CANDIDATE_KEYS,
    EXCLUDED_KEYS,
    FORGET,
    PUBLIC_NOW,
    RANK,
    RECOMMEND,
    REQUEST_ID,
    REQUEST_ID_BYTES,
    SESSION_ENSEMBLES,
    TIMES,
    TOP_K,
    USER_ID,
)
from hytrec_export.errors import OptionError, ServerError
from hytrec_export.optional import require

TIMEOUT_S = 60.0
ATTEMPTS = 3
"""A busy server refuses calls as UNAVAILABLE; the same call is sent again."""
_SESSION_APPEND, _SESSION_RANK, _SESSION_RECOMMEND = (ensemble.name for ensemble in SESSION_ENSEMBLES)

Tensors = Mapping[str, NDArray[Any]]
"""Tensors by name, batch axis first."""


class Visitor(Protocol):
    """A user that the server has never seen."""

    def append(self, events: Tensors) -> Tensors:
        """Feed events: `item_keys`, `behavior_keys` and `times`."""
        ...

    def rank(self, candidate_keys: NDArray[Any], now_s: int) -> Tensors:
        """Score candidates."""
        ...

    def recommend(self, excluded_keys: NDArray[Any], now_s: int, top_k: int) -> Tensors:
        """Best items of the catalogue."""
        ...

    def leave(self) -> None:
        """Let the server forget everything."""
        ...


class Endpoints:
    """A connection to a server.

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
        self._grpc = require("tritonclient.grpc", extra="client")
        self._type_of = require("tritonclient.utils", extra="client").np_to_triton_dtype
        self._url = parts.netloc
        self._client = self._grpc.InferenceServerClient(self._url)

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def check_ready(self) -> None:
        """Raises: ServerError: nobody answers, or the server says that it is not ready."""
        try:
            ready = self._client.is_server_ready(client_timeout=TIMEOUT_S)
        except self._grpc.InferenceServerException as error:
            raise ServerError(
                f"no Triton server answers at {self._url} ({_reason(error)}); start it, or give its gRPC port"
            ) from error
        if not ready:
            raise ServerError(f"the server at {self._url} is not ready; wait until it has loaded its models")

    def visitor(self, *, session: bool) -> Visitor:
        """A new user, or a new session."""
        return _Session(self) if session else _User(self)

    def call(self, model: str, inputs: Tensors, **options: Any) -> Tensors:
        """Run a model; the same call again where it is UNAVAILABLE.

        Raises:
            ServerError: it failed.
        """
        tensors = []
        for name, values in inputs.items():
            tensor = self._grpc.InferInput(name, list(values.shape), self._type_of(values.dtype))
            tensors.append(tensor.set_data_from_numpy(values))
        for attempt in range(1, ATTEMPTS + 1):
            try:
                result = self._client.infer(model, tensors, client_timeout=TIMEOUT_S, **options)
            except self._grpc.InferenceServerException as error:
                if attempt == ATTEMPTS or "UNAVAILABLE" not in str(error.status()):
                    raise ServerError(
                        f"{model} of the server at {self._url} failed ({_reason(error)}); see the server's log"
                    ) from error
            else:
                return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}
        raise AssertionError  # for the type checker: the last attempt returns or raises


class _User:
    """By user id, through the state store."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._id = {USER_ID.name: np.array([[f"hytrec-verify-{secrets.token_hex(16)}".encode()]], object)}

    def append(self, events: Tensors) -> Tensors:
        return self._call(APPEND.name, events)

    def rank(self, candidate_keys: NDArray[Any], now_s: int) -> Tensors:
        return self._call(RANK.name, {CANDIDATE_KEYS.name: candidate_keys[None], PUBLIC_NOW.name: _one(now_s)})

    def recommend(self, excluded_keys: NDArray[Any], now_s: int, top_k: int) -> Tensors:
        return self._call(RECOMMEND.name, _recommend(excluded_keys, now_s, top_k))

    def leave(self) -> None:
        self._endpoints.call(FORGET.name, self._id)

    def _call(self, model: str, inputs: Tensors) -> Tensors:
        request_id = np.frombuffer(os.urandom(REQUEST_ID_BYTES), np.uint8)[None]
        return self._endpoints.call(model, {**self._id, REQUEST_ID.name: request_id, **inputs})


class _Session:
    """By sequence id, in the server's memory."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._id = secrets.randbelow((1 << 63) - 1) + 1
        self._started = False

    def append(self, events: Tensors) -> Tensors:
        return self._call(_SESSION_APPEND, events)

    def rank(self, candidate_keys: NDArray[Any], now_s: int) -> Tensors:
        return self._call(_SESSION_RANK, {CANDIDATE_KEYS.name: candidate_keys[None], PUBLIC_NOW.name: _one(now_s)})

    def recommend(self, excluded_keys: NDArray[Any], now_s: int, top_k: int) -> Tensors:
        return self._call(_SESSION_RECOMMEND, _recommend(excluded_keys, now_s, top_k))

    def leave(self) -> None:
        if self._started:
            self._call(_SESSION_APPEND, {TIMES.name: np.zeros((1, 0), np.int64)}, sequence_end=True)

    def _call(self, model: str, inputs: Tensors, **options: Any) -> Tensors:
        start, self._started = not self._started, True
        return self._endpoints.call(model, inputs, sequence_id=self._id, sequence_start=start, **options)


def _recommend(excluded_keys: NDArray[Any], now_s: int, top_k: int) -> dict[str, NDArray[Any]]:
    return {EXCLUDED_KEYS.name: excluded_keys[None], PUBLIC_NOW.name: _one(now_s), TOP_K.name: _one(top_k)}


def _one(value: int) -> NDArray[np.int64]:
    return np.array([[value]], np.int64)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
