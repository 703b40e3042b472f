"""Maps failed remote calls to the errors a caller sees."""

from __future__ import annotations

import re

from hytrec.signature import ENSEMBLES, FORGET
from hytrec_clients.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    ServerFailed,
    ServerMismatch,
    Unavailable,
    Unresolved,
)
from hytrec_clients.flow import RpcFailure
from hytrec_clients.retry import Budget

_ARGUMENTS = sorted({tensor.name for endpoint in (*ENSEMBLES, FORGET) for tensor in endpoint.inputs})
_ARGUMENT = re.compile(rf"\b({'|'.join(_ARGUMENTS)})\b")


def rejection(endpoint: str, url: str, failure: RpcFailure) -> ClientError:
    """The error for a failure that is not retried."""
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


def given_up(endpoint: str, url: str, failure: RpcFailure, budget: Budget, request_id: bytes | None) -> Unresolved:
    """The error of a request that is out of time; `failure` is its last one."""
    advice = f"retry with request_id {request_id.hex()}" if request_id else "retry"
    spent = f"within {budget.timeout_s:g} s (attempts: {budget.attempts}"
    if failure.code == "DEADLINE_EXCEEDED":
        message = f"no response of {endpoint} at {url} {spent}); {advice}, or give a larger timeout_s"
        return DeadlineExceeded(message, attempts=budget.attempts, request_id=request_id)
    message = f"{endpoint} at {url} was unavailable {spent}, the last said: {failure.message}); {advice}"
    return Unavailable(message, attempts=budget.attempts, request_id=request_id)
