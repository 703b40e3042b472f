"""Maps failed remote calls to the errors a caller sees."""

from __future__ import annotations

import re

from hytrec.signature import ENSEMBLES, FORGET
from hytrec_clients.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    NotAuthenticated,
    ServerFailed,
    ServerMismatch,
    Unavailable,
    Unresolved,
)
from hytrec_clients.flow import RESTRICTED, RpcFailure
from hytrec_clients.retry import Budget

_ARGUMENTS = sorted({tensor.name for endpoint in (*ENSEMBLES, FORGET) for tensor in endpoint.inputs})
_ARGUMENT = re.compile(rf"\b({'|'.join(_ARGUMENTS)})\b")

_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([a-z ]+)", re.IGNORECASE)
_OTHER_NAME = re.compile(r"Hostname Verification|not in peer certificate", re.IGNORECASE)
_PLAINTEXT = re.compile(r"WRONG_VERSION_NUMBER", re.IGNORECASE)
_CLOSED = re.compile(r"failed to connect.*(Socket closed|Connection reset)", re.IGNORECASE)


def rejection(endpoint: str, url: str, failure: RpcFailure) -> ClientError:
    """The error for a failure that is not retried."""
    if failure.not_authenticated:
        return NotAuthenticated(_not_authenticated(url, failure.message))
    if failure.code == "INVALID_ARGUMENT":
        named = _ARGUMENT.search(failure.message)
        return InvalidRequest(failure.message, field=named and named[1])
    if failure.code in {"NOT_FOUND", "UNIMPLEMENTED"}:
        return ServerMismatch(
            f"{url} does not serve {endpoint} ({failure.message}); give the gRPC port of a server that was started "
            "with: hytrec-export serve"
        )
    return ServerFailed(
        f"{endpoint} at {url} failed with {failure.code}: {failure.message}; see the server's log", code=failure.code
    )


def _not_authenticated(url: str, message: str) -> str:
    if RESTRICTED.search(message):
        return f"{url} got no token, or a wrong one; give the server's own by --token-file or HYTREC_TOKEN_FILE"
    advice = (
        "give the authority of the server's certificate by --tls-ca or HYTREC_TLS_CA, and a name or address that "
        "stands in the certificate"
    )
    if reason := _CERTIFICATE.search(message):
        said = f"the server's certificate is not accepted: {reason[1].strip()}"
    elif _OTHER_NAME.search(message):
        said = "the server's certificate is of another name"
    elif _PLAINTEXT.search(message):
        said = "the server speaks no TLS"
        advice = "connect without TLS, or start the server with --tls-cert"
    else:
        said = message
    return f"no TLS connection with {url} ({said}); {advice}"


def given_up(endpoint: str, url: str, failure: RpcFailure, budget: Budget, request_id: bytes | None) -> Unresolved:
    """The error of a request that is out of time; `failure` is its last one.

    Args:
        url: of every server that was tried.
    """
    advice = f"retry with request_id {request_id.hex()}" if request_id else "retry"
    spent = f"within {budget.timeout_s:g} s (attempts: {budget.attempts}"
    if failure.code == "DEADLINE_EXCEEDED":
        message = f"no response of {endpoint} at {url} {spent}); {advice}, or give a larger timeout_s"
        return DeadlineExceeded(message, attempts=budget.attempts, request_id=request_id)
    if _CLOSED.search(failure.message):
        advice += (
            "; the server closes every connection, as one does that wants TLS (--tls-ca) or another client certificate "
            "(--tls-cert, --tls-key)"
        )
    message = f"{endpoint} at {url} was unavailable {spent}, the last said: {failure.message}); {advice}"
    return Unavailable(message, attempts=budget.attempts, request_id=request_id)
