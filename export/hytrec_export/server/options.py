"""Options of the embedded server; one default each, the command line reads them from here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hytrec_export.errors import OptionError

MAX_PORT = 65_535
ANY_PORT = 0
MIN_SHM_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How to run tritonserver on a model repository.

    Args:
        repository: folder of a built model repository.
        host: address to listen on; by default loopback, for the endpoints have no authentication.
        grpc_port, http_port, metrics_port: 0 takes any free port.
        ready_timeout_s: how long loading may take.
        stop_timeout_s: how long in-flight requests may take to finish at a stop, before the server is killed.
        max_crashes: `run_until_stopped` gives up at so many crashes within `crash_window_s`, and starts the server
            again before; 1 never starts it again.
        crash_window_s: see `max_crashes`.
        restart_delay_s: wait before the first start after a crash; it doubles with each further crash in the window.
        admin_key_file: where `run_until_stopped` writes the key of the restricted APIs while the server runs.
        shm_bytes: first size of the memory that the server shares with each python model; it grows on demand.
        load_threads: models loaded at the same time.
        log: show the server's log on stderr as it is written.
        log_verbose: tritonserver's --log-verbose; 0 is off.
        environment: variables for the server and its python models, on top of this process's own.
    """

    repository: Path
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    ready_timeout_s: float = 120.0
    stop_timeout_s: float = 10.0
    max_crashes: int = 5
    crash_window_s: float = 300.0
    restart_delay_s: float = 0.5
    admin_key_file: Path | None = None
    shm_bytes: int = 4 << 20
    load_threads: int = 8
    log: bool = False
    log_verbose: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises: OptionError: an option is out of its range."""
        for name in ("grpc_port", "http_port", "metrics_port"):
            port = getattr(self, name)
            if not 0 <= port <= MAX_PORT:
                raise OptionError(f"{name} is {port}; it must be 1 to {MAX_PORT}, or 0 for any free port")
        fixed = [port for port in (self.grpc_port, self.http_port, self.metrics_port) if port != ANY_PORT]
        if len(set(fixed)) < len(fixed):
            raise OptionError(f"two endpoints share a port (grpc, http, metrics: {fixed}); give each its own, or 0")
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
