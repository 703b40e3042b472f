"""A Triton Inference Server of this process's own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from hytrec_export.errors import ServerError
from hytrec_export.local_http import HttpAddress
from hytrec_export.secret_arguments import hide_arguments
from hytrec_export.server.arguments import new_key
from hytrec_export.server.command_line import HTTP_SOCKET, METRICS_SOCKET, server_arguments, server_environment
from hytrec_export.server.installation import Installation
from hytrec_export.server.log import PASSING_FAILURES, ServerLog
from hytrec_export.server.metrics_endpoint import CrashCause, MetricsEndpoint, ServerRecord
from hytrec_export.server.options import ServerOptions
from hytrec_export.server.ports import Ports, address_of
from hytrec_export.server.process import ServerProcess, describe_exit
from hytrec_export.server.readiness import failure_of, read_index, responds_ready
from hytrec_export.server.served_repository import check_models
from hytrec_export.server.stale_resources import ServerLease, remove_stale_resources
from hytrec_export.server.stub_processes import has_ended, python_models

PartT = TypeVar("PartT")
_POLL_S = 0.02
_STARTS_AGAIN = 2
_STOP_MARGIN_S = 5.0
_GONE_TIMEOUT_S = 10.0
"""How long the python models may outlive their server; those that asked the kernel do for milliseconds."""


class EmbeddedServer:
    """Runs tritonserver on a model repository.

    As a context manager it is ready on entry and stopped on exit. It may be started again after a `stop` or a `kill`,
    and keeps its ports then.

        with EmbeddedServer(ServerOptions(repository=Path("model_repository"))) as server:
            client = tritonclient.grpc.InferenceServerClient(server.grpc_url)

    Attributes:
        record: what is counted across its crashes.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._process: ServerProcess | None = None
        self._lease: ServerLease | None = None
        self._ports: Ports | None = None
        self._log: ServerLog | None = None
        self._admin_key = ""
        self._token: str | None = None
        self._hidden = False
        self._started_at = 0.0
        self._starts_left = _STARTS_AGAIN
        self.record = ServerRecord(options.state_folder)
        self._metrics: MetricsEndpoint | None = None
        self._python_models: dict[int, str] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start tritonserver and return at once; `wait_ready` waits for the models.

        Raises:
            ServerError: it runs already, a port is taken, a part of the installation is missing, or the address asks
                for TLS and a token (`AccessOptions`).
            RepositoryError: the repository is not a folder of models.
            MissingPackageError: nvidia-pytriton is not installed.
        """
        if self._process is not None and self._process.returncode is None:
            raise ServerError(f"the server runs already (process {self._process.pid}); stop it first")
        self._clean_up()
        self._options.access.check(self._options.host, address=address_of(self._options.host))
        self._token = self._options.access.token()
        remove_stale_resources()
        check_models(self._options.repository)
        installation = Installation.find()
        self._ports = self._choose_ports()
        self._admin_key = new_key()
        self._started_at = time.monotonic()
        self._hidden = False
        lease = self._lease = ServerLease()
        backends = installation.link(lease.folder)
        echo = sys.stderr if self._options.log else None
        log = self._log = ServerLog(lease.folder / "tritonserver.log", echo=echo, notices=sys.stderr)
        if self._metrics is None:
            listener = self._ports.metrics
            self._metrics = MetricsEndpoint(
                address_of(listener.host),
                listener.port,
                record=self.record,
                triton=lambda: (folder := self._folder()) and folder / METRICS_SOCKET,
                models=self._folder,
            )
        with lease.handed_over() as lock_file:
            self._process = ServerProcess(
                [
                    str(installation.program),
                    *server_arguments(
                        self._options,
                        self._ports,
                        lease,
                        backends=backends,
                        admin_key=self._admin_key,
                        token=self._token,
                    ),
                ],
                environment=server_environment(self._options, installation, lease.folder),
                log=log.path,
                lock_file=lock_file,
            )

    def wait_ready(self, timeout_s: float | None = None, *, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Wait until every model is ready.

        Args:
            timeout_s: counted from now; the options' `ready_timeout_s` if not given.
            cancelled: asked again and again; the wait ends once it says so.

        Returns:
            Whether the server is ready; False only where the wait was cancelled.

        Raises:
            ServerError: a model failed to load, the server ended, or the time is over; the server is killed then.
        """
        limit_s = self._options.ready_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while not cancelled():
            if self.poll_ready():
                return True
            if time.monotonic() > deadline:
                loading = ", ".join(_started(self._log).still_loading()) or "no model that its log names"
                waited_s = time.monotonic() - self._started_at
                self.kill()
                raise ServerError(
                    f"tritonserver was not ready {waited_s:.0f} s after its start (still loading: {loading}); "
                    "raise --ready-timeout, or see the server's log with --log"
                )
            time.sleep(_POLL_S)
        return False

    def poll_ready(self) -> bool:
        """Whether every model is ready now.

        Raises:
            ServerError: a model failed to load, or the server ended; what is left of it is killed.
        """
        process, log = _started(self._process), _started(self._log)
        if (ended := process.returncode) is not None:
            self._start_failed(log.server_failure() or f"{describe_exit(ended)}; see the server's log with --log")
            return False
        _started(self._lease).make_private()
        if not self._hidden and log.path.stat().st_size:  # it has read its arguments when it prints
            self._hidden = hide_arguments(process.pid, [self._admin_key, self._token or ""])
        models = read_index(self._http_address(), admin_key=self._admin_key)
        if models is None or any(model.loading for model in models):
            return False
        if failed := [model.name for model in models if model.failed]:
            failure = failure_of(models) or log.load_failure() or f"model {', '.join(failed)} failed to load"
            self.kill()
            raise ServerError(f"{failure} (see all of the server's log with --log)")
        if not responds_ready(self._http_address(), token=self._token):
            return False
        _started(self._lease).make_private()  # what the models made since the beginning of this poll
        self._python_models = python_models(process.pid)
        self._starts_left = _STARTS_AGAIN
        _started(self._ports).release()
        self.record.became_ready(seconds=time.monotonic() - self._started_at)
        return True

    def _start_failed(self, reason: str) -> None:
        """Start again after what is over by then, a few times. Raises: ServerError: it is of no use."""
        self._clean_up()
        if reason not in PASSING_FAILURES or not self._starts_left:
            raise ServerError(f"tritonserver ended while starting: {reason}")
        self._starts_left -= 1
        self.record.crashed(CrashCause.START)
        self.start()

    def dead_models(self) -> list[str]:
        """Names of the python models that ended since the server was ready; requests to them wait for ever."""
        return sorted(name for pid, name in self._python_models.items() if has_ended(pid))

    def stop(self) -> None:
        """Let in-flight requests finish, end the server and remove its resources; does nothing when it does not run."""
        if self._process is not None:
            self._process.stop(self._options.stop_timeout_s + _STOP_MARGIN_S)
        self._close_metrics()
        self._clean_up()

    def kill(self) -> None:
        """SIGKILL the server as a crash would, wait for its python models' end and remove its resources."""
        if self._process is not None:
            self._process.kill()
        self._close_metrics()
        self._clean_up()

    def end_crashed(self, cause: CrashCause) -> None:
        """`kill` a server that crashed and is started again; its metrics stay readable, and count the crash."""
        self.record.crashed(cause)
        if self._process is not None:
            self._process.kill()
        self._clean_up()

    @property
    def pid(self) -> int:
        """Process id of tritonserver."""
        return _started(self._process).pid

    @property
    def returncode(self) -> int | None:
        """Exit status of tritonserver, negative for a signal; None while it runs."""
        return _started(self._process).returncode

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC endpoint, as clients take it: host:port."""
        return _started(self._ports).grpc.url

    @property
    def http_url(self) -> str | None:
        """Address of the HTTP endpoint; None without one."""
        listener = _started(self._ports).http
        return None if listener is None else f"http://{listener.url}"

    @property
    def metrics_url(self) -> str:
        """Address of the metrics, for Prometheus."""
        return f"http://{_started(self._ports).metrics.url}/metrics"

    @property
    def admin_key(self) -> str:
        """Key of the restricted APIs (see `arguments.RESTRICTED_APIS`); another one after each start."""
        return self._admin_key

    def log_tail(self, lines: int = 30) -> str:
        """Last lines of the server's log; after its end, of its last run."""
        return self._log.tail(lines) if self._log else ""

    def _choose_ports(self) -> Ports:
        if self._ports is None:
            return Ports.take(self._options)
        self._ports.check(metrics=self._metrics is None)
        return self._ports

    def _http_address(self) -> HttpAddress:
        listener = _started(self._ports).http
        return listener.address if listener else _started(self._lease).folder / HTTP_SOCKET

    def _folder(self) -> Path | None:
        """Called by the thread of the metrics endpoint."""
        lease = self._lease
        return None if lease is None else lease.folder

    def _close_metrics(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        self._metrics = None

    def _clean_up(self) -> None:
        """Remove the resources of the ended process."""
        self.record.ended()
        if self._ports is not None:
            self._ports.release()
        if self._log is not None:
            self._log.finish()
        if self._lease is not None and not self._lease.remove(wait_s=_GONE_TIMEOUT_S):
            raise ServerError(
                f"a python model of the server outlived it by {_GONE_TIMEOUT_S:g} s; "
                f"find it with: ps -ef | grep {self._lease.shm_prefix}"
            )
        self._lease = None


def _started(part: PartT | None) -> PartT:
    if part is None:
        raise ServerError("the server was not started; call start() first")
    return part
