"""Errors of the clients. One line each: what is wrong, what was given, what is allowed, what to do next.

HytrecError
  ClientError
    InvalidRequest        the request is wrong and would be wrong again (also a ValueError)
    Unresolved            out of time; retried with its `request_id`, a request is applied at most once
      Unavailable         the last attempt was rejected: conflict, store full, server away
      DeadlineExceeded    the last attempt had no response (also a TimeoutError)
    ModelChanged          the server runs another model than this client is pinned to
    NotAuthenticated      server or client does not accept the other's token or certificate
    ServerMismatch        the server lacks the ensembles, or speaks another contract
    ServerFailed          the server failed in a way that is not retried
    ClientClosed          the client was used after it was closed
    MissingPackageError   tritonclient is not installed
"""
# ruff: noqa: N818 - the names say what happened to the request, as gRPC's own codes do

from __future__ import annotations

from hytrec.errors import HytrecError
from hytrec_clients.results import Ranking, Receipt, Recommendation

__all__ = [
    "ClientClosed",
    "ClientError",
    "DeadlineExceeded",
    "InvalidRequest",
    "MissingPackageError",
    "ModelChanged",
    "NotAuthenticated",
    "ServerFailed",
    "ServerMismatch",
    "Unavailable",
    "Unresolved",
]


class ClientError(HytrecError):
    """Base of the clients' known errors."""


class InvalidRequest(ClientError, ValueError):
    """The request is wrong; never retried.

    Attributes:
        field: the argument that is wrong, by its name in `hytrec.signature`; None where none is named.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Unresolved(ClientError):
    """The request ran out of time, and whether its events were applied is unknown.

    Attributes:
        attempts: how often it was sent.
        request_id: retry the request with it, and its events are applied at most once; None where nothing was sent
            that could write events.
    """

    def __init__(self, message: str, *, attempts: int, request_id: bytes | None) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.request_id = request_id


class Unavailable(Unresolved):
    """The last attempt was rejected: a conflict with another writer, a full store, too many waiting, or no server."""


class DeadlineExceeded(Unresolved, TimeoutError):
    """The last attempt had no response in its time."""


class ModelChanged(ClientError):
    """The server runs another model than the pinned one. Users keep their histories.

    The request itself was executed by the new model: `result` is what it returned.

    Attributes:
        old, new: fingerprints, the pinned one and the server's.
        result: the result of the request.
        receipt: its receipt; `receipt.applied` says whether the request's events were written.
    """

    def __init__(self, message: str, *, old: str, new: str, result: Receipt | Ranking | Recommendation) -> None:
        super().__init__(message)
        self.old = old
        self.new = new
        self.result = result
        self.receipt = result if isinstance(result, Receipt) else result.receipt


class NotAuthenticated(ClientError):
    """The server did not accept the token, or TLS failed between the two; not retried."""


class ServerMismatch(ClientError):
    """The server lacks the HyTRec ensembles, or its tensors are not those of this client."""


class ServerFailed(ClientError):
    """The server failed in a way that a retry is not known to fix.

    Attributes:
        code: the gRPC status, such as INTERNAL.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class ClientClosed(ClientError):
    """The client was used after it was closed."""


class MissingPackageError(ClientError):
    """An optional package is not installed; the message holds the pip command."""
