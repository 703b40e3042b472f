"""A Triton Inference Server of this process's own."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self, TypeVar

from hytrec_export.errors import ServerError
from hytrec_export.server.arguments import new_admin_key, shared_arguments
from hytrec_export.server.installation import Installation
from hytrec_export.server.log import ServerLog, has_gpu
from hytrec_export.server.options import ServerOptions
from hytrec_export.server.plain_paths import ascii_state_folder, plain_repository
from hytrec_export.server.ports import Ports, address_of, connect_host
from hytrec_export.server.process import ServerProcess, describe_exit
from hytrec_export.server.readiness import failure_of, read_index, responds_ready
from hytrec_export.server.served_repository import check_models
from hytrec_export.server.stale_resources import ServerLease, remove_stale_resources
from hytrec_export.server.stub_processes import has_ended, python_models
from hytrec_export.state.options import URL_VARIABLE
from hytrec_export.state.url import StoreUrl

PartT = TypeVar("PartT")
_POLL_S = 0.02
_STOP_MARGIN_S = 5.0
_GONE_TIMEOUT_S = 10.0
"""How long the python models may outlive their server; those that asked the kernel do for milliseconds."""


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
        self._lease: ServerLease | None = None
        self._ports: Ports | None = None
        self._log: ServerLog | None = None
        self._admin_key = ""
        self._started_at = 0.0
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
            ServerError: it runs already, a port is taken, or a part of the installation is missing.
            RepositoryError: the repository is not a folder of models.
            MissingPackageError: nvidia-pytriton is not installed.
        """
        if self._process is not None and self._process.returncode is None:
            raise ServerError(f"the server runs already (process {self._process.pid}); stop it first")
        self._clean_up()
        remove_stale_resources()
        check_models(self._options.repository)
        installation = Installation.find()
        self._ports = self._choose_ports()
        self._admin_key = new_admin_key()
        self._started_at = time.monotonic()
        lease = self._lease = ServerLease()
        backends = installation.link(lease.folder)
        echo = sys.stderr if self._options.log else None
        log = self._log = ServerLog(lease.folder / "tritonserver.log", echo=echo, notices=sys.stderr)
        with lease.handed_over() as lock_file:
            self._process = ServerProcess(
                [str(installation.program), *self._arguments(backends, lease)],
                environment=self._environment(installation, lease.folder),
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
        ended = process.returncode
        if ended is not None:
            reason = log.server_failure() or f"{describe_exit(ended)}; see the server's log with --log"
            self._clean_up()
            raise ServerError(f"tritonserver ended while starting: {reason}")
        host, port = connect_host(self._options.host), _started(self._ports).http
        models = read_index(host, port, admin_key=self._admin_key)
        if models is None or any(model.loading for model in models):
            return False
        if failed := [model.name for model in models if model.failed]:
            failure = failure_of(models) or log.load_failure() or f"model {', '.join(failed)} failed to load"
            self.kill()
            raise ServerError(f"{failure} (see all of the server's log with --log)")
        if not responds_ready(host, port):
            return False
        self._python_models = python_models(process.pid)
        return True

    def dead_models(self) -> list[str]:
        """Names of the python models that ended since the server was ready; requests to them wait for ever."""
        return sorted(name for pid, name in self._python_models.items() if has_ended(pid))

    def stop(self) -> None:
        """Let in-flight requests finish, end the server and remove its resources; does nothing when it does not run."""
        if self._process is not None:
            self._process.stop(self._options.stop_timeout_s + _STOP_MARGIN_S)
        self._clean_up()

    def kill(self) -> None:
        """SIGKILL the server as a crash would, wait for its python models' end and remove its resources."""
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
        return f"{connect_host(self._options.host)}:{_started(self._ports).grpc}"

    @property
    def http_url(self) -> str:
        """Address of the HTTP endpoint."""
        return f"http://{connect_host(self._options.host)}:{_started(self._ports).http}"

    @property
    def metrics_url(self) -> str:
        """Address of the metrics, for Prometheus."""
        return f"http://{connect_host(self._options.host)}:{_started(self._ports).metrics}/metrics"

    @property
    def admin_key(self) -> str:
        """Key of the restricted APIs (see `arguments.RESTRICTED_APIS`); another one after each start."""
        return self._admin_key

    def log_tail(self, lines: int = 30) -> str:
        """Last lines of the server's log; after its end, of its last run."""
        return self._log.tail(lines) if self._log else ""

    def _arguments(self, backends: Path, lease: ServerLease) -> Iterator[str]:
        options, ports = self._options, _started(self._ports)
        address = address_of(options.host)
        values = {
            "model-repository": plain_repository(options.repository, lease.folder),
            "backend-directory": backends,
            # A model that fails to load is reported by the repository index, with its reason.
            "exit-on-error": "false",
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
        yield from shared_arguments(admin_key=self._admin_key, shm_bytes=options.shm_bytes)
        yield f"--backend-config=python,shm-region-prefix-name={lease.shm_prefix}"

    def _environment(self, installation: Installation, folder: Path) -> Mapping[str, str]:
        variables = installation.environment(folder) | dict(self._options.environment)
        state = variables.get(URL_VARIABLE)
        if state and (state_folder := StoreUrl.parse(state).folder):
            plain_folder = ascii_state_folder(state_folder, folder)
            if plain_folder != state_folder:
                variables[URL_VARIABLE] = str(StoreUrl.of_folder(plain_folder))
        return variables

    def _choose_ports(self) -> Ports:
        if self._ports is None:
            return Ports.take(self._options)
        self._ports.check(self._options.host)
        return self._ports

    def _clean_up(self) -> None:
        """Remove the resources of the ended process."""
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
