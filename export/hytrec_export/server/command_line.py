"""The command line of the embedded tritonserver, and its environment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from hytrec_export.server.arguments import new_key, shared_arguments
from hytrec_export.server.installation import Installation
from hytrec_export.server.log import has_gpu
from hytrec_export.server.options import ServerOptions
from hytrec_export.server.plain_paths import ascii_state_folder, plain_repository
from hytrec_export.server.ports import Ports, address_of
from hytrec_export.server.stale_resources import ServerLease
from hytrec_export.settings import CALL_KEY_VARIABLE, METRICS_ADDRESS_VARIABLE, SERVER_FOLDER_VARIABLE
from hytrec_export.state.options import URL_VARIABLE
from hytrec_export.state.url import StoreUrl

HTTP_SOCKET, METRICS_SOCKET = "http.sock", "metrics.sock"
"""Files in the lease's folder, which is its owner's alone; tritonserver's HTTP library takes the address unix:PATH."""


def server_arguments(
    options: ServerOptions, ports: Ports, lease: ServerLease, *, backends: Path, admin_key: str, token: str | None
) -> Iterator[str]:
    """Arguments of tritonserver.

    Without `--http` its HTTP front end is there for this process alone, as a socket file: it tells which model failed
    to load and why, and needs neither the clients' certificate nor their token.
    """
    values = {
        "model-repository": plain_repository(options.repository, lease.folder),
        "backend-directory": backends,
        # A model that fails to load is reported by the repository index, with its reason.
        "exit-on-error": "false",
        "model-load-thread-count": options.load_threads,
        "exit-timeout-secs": math.ceil(options.stop_timeout_s),
        "grpc-address": address_of(ports.grpc.host),
        "grpc-port": ports.grpc.port,
        "http-address": address_of(ports.http.host) if ports.http else f"unix:{lease.folder / HTTP_SOCKET}",
        "http-port": ports.http.port if ports.http else 0,
        "metrics-address": f"unix:{lease.folder / METRICS_SOCKET}",
        "metrics-port": 0,
        "log-verbose": options.log_verbose,
    }
    if not has_gpu():
        values |= {"allow-gpu-metrics": "false", "pinned-memory-pool-byte-size": 0}
    yield from (f"--{name}={value}" for name, value in values.items())
    yield from options.access.grpc_arguments()
    http_token = ports.http is not None
    yield from shared_arguments(admin_key=admin_key, shm_bytes=options.shm_bytes, token=token, http_token=http_token)
    yield f"--backend-config=python,shm-region-prefix-name={lease.shm_prefix}"


def server_environment(options: ServerOptions, installation: Installation, folder: Path) -> Mapping[str, str]:
    """The environment of tritonserver and its python models.

    Args:
        folder: the server's own.
    """
    variables = installation.environment(folder) | dict(options.environment)
    variables |= {CALL_KEY_VARIABLE: new_key(), SERVER_FOLDER_VARIABLE: str(folder)}
    variables[METRICS_ADDRESS_VARIABLE] = f"unix:{folder / METRICS_SOCKET}"
    state = options.state_folder
    if state and (plain_folder := ascii_state_folder(state, folder)) != state:
        variables[URL_VARIABLE] = str(StoreUrl.of_folder(plain_folder))
    return variables
