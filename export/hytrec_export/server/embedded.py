"""A Triton Inference Server of this process's own."""

from __future__ import annotations

import http.client
import math
import os
import time
from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import Self

from hytrec_export.errors import RepositoryError, ServerError
from hytrec_export.server.installation import Installation
from hytrec_export.server.log import LogFollower, ServerLog, has_gpu
from hytrec_export.server.options import ServerOptions
from hytrec_export.server.ports import Ports, address_of, connect_host
from hytrec_export.server.process import ServerProcess, describe_exit
from hytrec_export.server.stale_resources import ServerLease, remove_leftovers
from hytrec_export.server.stub_processes import has_ended, python_models

_LOOK_S = 0.02
_CONNECT_TIMEOUT_S = 2.0
_STOP_MARGIN_S = 5.0
_GONE_TIMEOUT_S = 10.0
"""How long the python models of a server that has ended may take to end; milliseconds, if they asked the kernel."""


class EmbeddedServer:
    """Runs tritonserver on a model repository.

    As a context manager it is ready on entry and stopped on exit. It may be started again after a `stop` or a `kill`,
    and keeps its ports then.

        with EmbeddedServer(ServerOptions(repository=Path("model_repository"))) as server:
            client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._process: ServerProcess | None = None
        self._claim: ServerLease | None = None
        self._ports: Ports | None = None
        self._log: ServerLog | None = None
        self._follower: LogFollower | None = None
        self._python_models: dict[int, str] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start tritonserver and return at once; `wait_ready` waits for the models.

        Raises:
            ServerError: it runs already, a port is taken, or a part of the installation is missing.
            RepositoryError: the repository is not a folder of models.
            MissingPackageError: nvidia-pytriton is not installed.
        """
        if self._process is not None and self._process.returncode is None:
            raise ServerError(f"the server runs already (process {self._process.pid}); stop it first")
        self._clean_up()
        remove_leftovers()
        self._check_repository()
        installation = Installation.find()
        self._ports = self._choose_ports()
        claim = self._claim = ServerLease()
        backends = installation.link(claim.folder)
        log = self._log = ServerLog(claim.folder / "tritonserver.log")
        with claim.handed_over() as lock_file:
            self._process = ServerProcess(
                [str(installation.program), *self._arguments(str(backends), claim.shm_prefix)],
                environment=installation.environment(claim.folder) | dict(self._options.environment),
                log=log.path,
                lock_file=lock_file,
            )
        if self._options.log:
            self._follower = LogFollower(log.path)
            self._follower.start()

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until every model is ready.

        Args:
            timeout_s: the options' `ready_timeout_s` if not given.

        Raises:
            ServerError: a model failed to load, the server ended, or the time is over; the server is killed then.
        """
        limit_s = self._options.ready_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while not self.poll_ready():
            if time.monotonic() > deadline:
                loading = ", ".join(self._running_log().still_loading()) or "none of them known"
                self.kill()
                raise ServerError(
                    f"tritonserver was not ready after {limit_s:g} s (still loading: {loading}); "
                    "raise --ready-timeout, or look at its log with --log"
                )
            time.sleep(_LOOK_S)

    def poll_ready(self) -> bool:
        """Whether every model is ready now.

        Raises:
            ServerError: a model failed to load, or the server ended; what is left of it is killed.
        """
        process, log = self._running_process(), self._running_log()
        ended = process.returncode
        if failure := log.load_failure():
            # tritonserver would unload the others first, for seconds.
            self.kill()
            raise ServerError(f"{failure} (see all of the server's log with --log)")
        if ended is not None:
            reason = log.server_failure() or f"{describe_exit(ended)}; look at its log with --log"
            self._clean_up()
            raise ServerError(f"tritonserver ended while starting: {reason}")
        if not self._answers_ready():
            return False
        self._python_models = python_models(process.pid)
        return True

    def dead_models(self) -> list[str]:
        """Names of the python models that ended since the server was ready; calls to them wait for ever."""
        return sorted(name for pid, name in self._python_models.items() if has_ended(pid))

    def stop(self) -> None:
        """Let running calls finish, end the server and remove what it leaves; nothing to do when it does not run."""
        if self._process is not None:
            self._process.stop(self._options.stop_timeout_s + _STOP_MARGIN_S)
        self._clean_up()

    def kill(self) -> None:
        """SIGKILL the server as a crash would, wait for its python models' end and remove what it leaves."""
        if self._process is not None:
            self._process.kill()
        self._clean_up()

    @property
    def pid(self) -> int:
        """Process id of tritonserver."""
        return self._running_process().pid

    @property
    def returncode(self) -> int | None:
        """Exit status of tritonserver, negative for a signal; None while it runs."""
        return self._running_process().returncode

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC endpoint, as clients take it: host:port."""
        return f"{connect_host(self._options.host)}:{self._known_ports().grpc}"

    @property
    def http_url(self) -> str:
        """Address of the HTTP endpoint."""
        return f"http://{connect_host(self._options.host)}:{self._known_ports().http}"

    @property
    def metrics_url(self) -> str:
        """Address of the metrics, for Prometheus."""
        return f"http://{connect_host(self._options.host)}:{self._known_ports().metrics}/metrics"

    def log_tail(self, lines: int = 30) -> str:
        """Last lines of the server's log; after its end, of its last run."""
        return self._log.tail(lines) if self._log else ""

    def _arguments(self, backends: str, shm_prefix: str) -> Iterator[str]:
        options, ports = self._options, self._known_ports()
        address = address_of(options.host)
        values = {
            "model-repository": os.fspath(options.repository.resolve()),
            "backend-directory": backends,
            "model-control-mode": "none",
            "model-load-thread-count": options.load_threads,
            "exit-timeout-secs": math.ceil(options.stop_timeout_s),
            "grpc-address": address,
            "http-address": address,
            "metrics-address": address,
            "grpc-port": ports.grpc,
            "http-port": ports.http,
            "metrics-port": ports.metrics,
            "log-verbose": options.log_verbose,
        }
        if not has_gpu():
            values |= {"allow-gpu-metrics": "false", "pinned-memory-pool-byte-size": 0}
        yield from (f"--{name}={value}" for name, value in values.items())
        # Completing configs would start every python model twice, and ours are complete.
        yield "--disable-auto-complete-config"
        yield f"--backend-config=python,shm-region-prefix-name={shm_prefix}"
        yield f"--backend-config=python,shm-default-byte-size={options.shm_bytes}"

    def _choose_ports(self) -> Ports:
        if self._ports is None:
            return Ports.take(self._options)
        self._ports.check(self._options.host)
        return self._ports

    def _check_repository(self) -> None:
        repository = self._options.repository
        if not repository.is_dir():
            raise RepositoryError(f"{repository} is not a folder; build a repository with: hytrec-export build RUN")
        if not any(repository.glob("*/config.pbtxt")):
            raise RepositoryError(
                f"{repository} holds no model (no */config.pbtxt); build a repository with: hytrec-export build RUN"
            )

    def _answers_ready(self) -> bool:
        host, port = connect_host(self._options.host), self._known_ports().http
        with closing(http.client.HTTPConnection(host, port, timeout=_CONNECT_TIMEOUT_S)) as connection:
            try:
                connection.request("GET", "/v2/health/ready")
                return connection.getresponse().status == http.HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False

    def _clean_up(self) -> None:
        """Forget the ended process and remove its leftovers."""
        if self._log is not None:
            self._log.text()
        if self._follower is not None:
            self._follower.finish()
            self._follower = None
        if self._claim is not None and not self._claim.remove(wait_s=_GONE_TIMEOUT_S):
            raise ServerError(
                f"a python model of the server outlived it by {_GONE_TIMEOUT_S:g} s; "
                f"find it with: ps -ef | grep {self._claim.shm_prefix}"
            )
        self._claim = None

    def _running_process(self) -> ServerProcess:
        if self._process is None:
            raise ServerError("the server was not started; call start() first")
        return self._process

    def _running_log(self) -> ServerLog:
        if self._log is None:
            raise ServerError("the server was not started; call start() first")
        return self._log

    def _known_ports(self) -> Ports:
        if self._ports is None:
            raise ServerError("the server was not started; call start() first")
        return self._ports
