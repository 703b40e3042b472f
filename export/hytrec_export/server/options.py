"""Options of the embedded server; one default each, the command line reads them from here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from hytrec_export.errors import OptionError
from hytrec_export.server.access import AccessOptions
from hytrec_export.state.options import URL_VARIABLE
from hytrec_export.state.url import StoreUrl

MAX_PORT = 65_535
ANY_PORT = 0
MIN_SHM_BYTES = 1 << 20
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How to run tritonserver on a model repository.

    Args:
        repository: folder of a built model repository.
        host: by default loopback; beyond it TLS and a token are asked for, see `access`.
        http: its front end can be ended by one request (SECURITY.md), and clients do not need it. It has no TLS, so it
            listens on `host` only where that is a loopback address, or with `access.insecure`.
        stop_timeout_s: the server is killed after it.
        max_crashes: of `run_until_stopped`; 1 never starts it again.
        shm_bytes: first size of the memory that the server shares with each python model; it grows on demand.
        load_threads: models loaded at the same time.
        log: on stderr, as it is written.
        environment: variables for the server and its python models, on top of this process's own.
    """

    repository: Path
    host: Annotated[str, "Address on which gRPC listens; beyond loopback it takes TLS and a token."] = LOOPBACK
    grpc_port: Annotated[int, "0 takes any free port."] = 8001
    http: Annotated[bool, "Serve HTTP too; without TLS, on loopback (on --host with --insecure)."] = False
    http_port: Annotated[int, "Port of --http; 0 takes any free port."] = 8000
    metrics_host: Annotated[str, "Address on which the metrics are read; they name no users."] = LOOPBACK
    metrics_port: Annotated[int, "0 takes any free port."] = 8002
    access: AccessOptions = field(default_factory=AccessOptions)
    ready_timeout_s: Annotated[float, "Maximum seconds to load the models."] = 120.0
    stop_timeout_s: Annotated[float, "Seconds that in-flight requests get at a stop."] = 10.0
    max_crashes: Annotated[
        int, "A server that crashed is started again, until so many crashes within --crash-window."
    ] = 5
    crash_window_s: Annotated[float, "Seconds in which --max-crashes are counted."] = 300.0
    restart_delay_s: Annotated[float, "Seconds before a restart; doubles with each further crash."] = 0.1
    admin_key_file: Annotated[
        Path | None, "Write the key of Triton's restricted APIs here (mode 0600) while the server runs."
    ] = None
    shm_bytes: int = 4 << 20
    load_threads: int = 8
    log: Annotated[bool, "Show the server's log."] = False
    log_verbose: Annotated[int, "tritonserver's --log-verbose."] = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def state_folder(self) -> Path | None:
        """Folder of the embedded state store; None of another store, and of sessions."""
        state = self.environment.get(URL_VARIABLE)
        return StoreUrl.parse(state).folder if state else None

    def __post_init__(self) -> None:
        """Raises: OptionError: an option is out of its range."""
        for name in ("host", "metrics_host"):
            if not getattr(self, name).strip():
                raise OptionError(
                    f"{name} is empty; give {LOOPBACK} for this machine alone, or 0.0.0.0 for every network"
                )
        for name in ("grpc_port", "http_port", "metrics_port"):
            port = getattr(self, name)
            if not 0 <= port <= MAX_PORT:
                raise OptionError(f"{name} is {port}; it must be 1 to {MAX_PORT}, or 0 for any free port")
        http = [self.http_port] if self.http else []
        fixed = [port for port in (self.grpc_port, *http, self.metrics_port) if port != ANY_PORT]
        if len(set(fixed)) < len(fixed):
            names = "grpc, http, metrics" if self.http else "grpc, metrics"
            raise OptionError(f"two endpoints share a port ({names}: {fixed}); give each its own, or 0")
        for name in ("ready_timeout_s", "stop_timeout_s", "crash_window_s", "restart_delay_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"{name} is {value}; it must be a positive number of seconds")
        if self.shm_bytes < MIN_SHM_BYTES:
            raise OptionError(f"shm_bytes is {self.shm_bytes}; python models need at least {MIN_SHM_BYTES}")
        if self.max_crashes < 1:
            raise OptionError(f"max_crashes is {self.max_crashes}; it must be at least 1")
        if self.load_threads < 1:
            raise OptionError(f"load_threads is {self.load_threads}; it must be at least 1")
        if self.log_verbose < 0:
            raise OptionError(f"log_verbose is {self.log_verbose}; it must be at least 0")
