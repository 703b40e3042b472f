"""What every tritonserver of this project is started with: the embedded one and the container's."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

ADMIN_HEADER = "hytrec-admin-key"
GRPC_ADMIN_HEADER = f"triton-grpc-protocol-{ADMIN_HEADER}"
"""Triton puts its own prefix before the name of a gRPC header."""
RESTRICTED_APIS = ("shared-memory", "model-repository", "logging", "trace")
"""APIs that change the server or reach other clients' memory. `statistics` stays open: it only reads, says what the
open metrics say too, and perf_analyzer needs it."""


def new_admin_key() -> str:
    """A random key for the restricted APIs of one run of a server."""
    return secrets.token_hex(32)


def shared_arguments(*, admin_key: str, shm_bytes: int) -> Iterator[str]:
    """Arguments of tritonserver that do not depend on where it runs.

    Args:
        admin_key: what a client must send in `ADMIN_HEADER` (HTTP) or `GRPC_ADMIN_HEADER` to use a restricted API.
            Triton takes it from its command line only, so other users of the machine may read it.
        shm_bytes: first size of the memory that the server shares with each python model.
    """
    yield "--model-control-mode=none"
    # Completing configs would start every python model twice, and ours are complete.
    yield "--disable-auto-complete-config"
    apis = ",".join(RESTRICTED_APIS)
    yield f"--http-restricted-api={apis}:{ADMIN_HEADER}={admin_key}"
    yield f"--grpc-restricted-protocol={apis}:{ADMIN_HEADER}={admin_key}"
    yield f"--backend-config=python,shm-default-byte-size={shm_bytes}"
