"""What every tritonserver of this project is started with: the embedded one and the container's."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

ADMIN_HEADER = "hytrec-admin-key"
TOKEN_HEADER = "hytrec-token"  # noqa: S105 - a header's name
GRPC_PREFIX = "triton-grpc-protocol-"
"""Triton puts it before the name of a gRPC header."""
GRPC_ADMIN_HEADER = f"{GRPC_PREFIX}{ADMIN_HEADER}"
RESTRICTED_APIS = ("shared-memory", "model-repository", "logging", "trace")
"""APIs that change the server or reach other clients' memory: for the one who started the server."""
CLIENT_APIS = ("health", "metadata", "inference", "model-config", "statistics")
"""All others, for clients: the token opens them where there is one. `statistics` only reads, says what the metrics say
too, and perf_analyzer needs it."""


def new_key() -> str:
    """A random key of one run of a server, 64 hex digits: of the restricted APIs, or of the call contexts."""
    return secrets.token_hex(32)


def shared_arguments(
    *, admin_key: str, shm_bytes: int, token: str | None = None, http_token: bool = True
) -> Iterator[str]:
    """Arguments of tritonserver that do not depend on where it runs.

    Args:
        admin_key: what a client must send in `ADMIN_HEADER` (HTTP) or `GRPC_ADMIN_HEADER` to use a restricted API.
            Triton takes it, and the token, from its command line only (`hytrec_export.secret_arguments`).
        shm_bytes: first size of the memory that the server shares with each python model.
        token: what a client must send in `TOKEN_HEADER` to use any other API; None asks for nothing.
        http_token: whether HTTP asks for the token too; not where only the server's own user reaches it.
    """
    yield "--model-control-mode=none"
    # Completing configs would start every python model twice, and ours are complete.
    yield "--disable-auto-complete-config"
    apis = ",".join(RESTRICTED_APIS)
    yield f"--http-restricted-api={apis}:{ADMIN_HEADER}={admin_key}"
    yield f"--grpc-restricted-protocol={apis}:{ADMIN_HEADER}={admin_key}"
    if token is not None:
        apis = ",".join(CLIENT_APIS)
        yield f"--grpc-restricted-protocol={apis}:{TOKEN_HEADER}={token}"
        if http_token:
            yield f"--http-restricted-api={apis}:{TOKEN_HEADER}={token}"
    yield f"--backend-config=python,shm-default-byte-size={shm_bytes}"
