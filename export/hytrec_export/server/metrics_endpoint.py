"""The metrics port of a server: tritonserver's own metrics, and what outlives its crashes.

tritonserver's own come from a socket file: its HTTP front end dies of a flood of small chunks (2.51) and takes the
process along, and nothing in it counts its restarts.
"""

from __future__ import annotations

import http
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hytrec_export.errors import ServerError
from hytrec_export.local_http import HttpAddress, request
from hytrec_export.server.model_metrics import model_metrics_text

PATH = "/metrics"
MAX_CONNECTIONS = 16
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TIMEOUT_S = 5.0
_POLL_S = 0.05


class CrashCause(StrEnum):
    """Why a server was started again."""

    SIGNAL = "signal"
    """tritonserver was killed, or died of a fault"""
    EXIT = "exit"
    """tritonserver ended with an exit status"""
    PYTHON_MODEL = "python_model"
    """one of its python models ended"""
    START = "start"
    """it did not become ready again"""


class ServerRecord:
    """What is counted of a server across its crashes. Safe to share between threads.

    Args:
        state: folder of the state store, whose files' sizes are metrics; None where there is none.

    Attributes:
        info: labels of the info metric, such as the model's fingerprint; no metric while it is empty.
    """

    def __init__(self, state: Path | None = None) -> None:
        self.info: Mapping[str, str] = {}
        self._state = state
        self._restarts: Counter[CrashCause] = Counter()
        self._ready_since: float | None = None
        self._last_ready_s = 0.0

    def became_ready(self, *, seconds: float) -> None:
        """The server is ready, so many seconds after its start."""
        self._ready_since, self._last_ready_s = time.time(), seconds

    def ended(self) -> None:
        """The server is not ready any more."""
        self._ready_since = None

    def crashed(self, cause: CrashCause) -> None:
        """The server crashed and is started again."""
        self._restarts[cause] += 1
        self.ended()

    def text(self) -> str:
        """In Prometheus's text format."""
        up = self._ready_since is not None
        lines = [
            "# HELP hytrec_server_up Whether tritonserver and all its models are ready.",
            "# TYPE hytrec_server_up gauge",
            f"hytrec_server_up {int(up)}",
            "# HELP hytrec_server_restarts_total Starts after a crash, by cause.",
            "# TYPE hytrec_server_restarts_total counter",
            *(f'hytrec_server_restarts_total{{cause="{cause}"}} {self._restarts[cause]}' for cause in CrashCause),
            "# HELP hytrec_server_ready_time_seconds Unix time since which the server has been ready; 0 if it is not.",
            "# TYPE hytrec_server_ready_time_seconds gauge",
            f"hytrec_server_ready_time_seconds {self._ready_since or 0:.3f}",
            "# HELP hytrec_server_start_duration_seconds Seconds from the last start to the server being ready.",
            "# TYPE hytrec_server_start_duration_seconds gauge",
            f"hytrec_server_start_duration_seconds {self._last_ready_s:.3f}",
        ]
        return "\n".join([*lines, *self._info_lines(), *self._state_lines(), ""])

    def _info_lines(self) -> Iterator[str]:
        if self.info:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in self.info.items())
            yield "# HELP hytrec_build_info What is served; the value is always 1."
            yield "# TYPE hytrec_build_info gauge"
            yield f"hytrec_build_info{{{labels}}} 1"

    def _state_lines(self) -> Iterator[str]:
        """Bytes that the files take on the disk: those of snapshots have holes."""
        if self._state is None:
            return
        yield "# HELP hytrec_state_bytes Bytes on disk of the state store's files."
        yield "# TYPE hytrec_state_bytes gauge"
        with suppress(OSError):
            for path in sorted(self._state.iterdir()):
                with suppress(OSError):
                    if path.is_file():
                        yield f'hytrec_state_bytes{{file="{_escaped(path.name)}"}} {path.stat().st_blocks * 512}'


def _escaped(text: str) -> str:
    """A label's value in Prometheus's text format."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class MetricsEndpoint:
    """Serves the metrics in a thread of its own until it is closed; the metrics of a crashed server are its record's.

    Args:
        host: IPv4 address to listen on.
        record: of the server.
        triton: asked at every scrape for the address of tritonserver's own metrics; None while it does not run.
        models: the same of the folder where its python models leave theirs.

    Raises:
        ServerError: the port cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        record: ServerRecord,
        triton: Callable[[], HttpAddress | None],
        models: Callable[[], Path | None] = lambda: None,
    ) -> None:
        def page() -> bytes:
            address = triton()
            reply = None if address is None else request(address, "GET", PATH)
            folder = models()
            own = ((model_metrics_text(folder) if folder else "") + record.text()).encode()
            return reply[1] + own if reply is not None and reply[0] == http.HTTPStatus.OK else own

        try:
            self._server = _BoundedServer((host, port), _handler(page))
        except OSError as error:
            raise ServerError(
                f"metrics cannot be served on {host}:{port} ({error}); choose another --metrics-port"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _BoundedServer(ThreadingHTTPServer):
    """Closes connections beyond so many at a time, unread."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks off is nothing to report."""


def _handler(page: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        server_version, sys_version = "hytrec", ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(http.HTTPStatus.NOT_FOUND)
                return
            body = page()
            self.send_response(http.HTTPStatus.OK)
            self.send_header("Content-Type", _CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Scrapes are not logged."""

    return Handler
