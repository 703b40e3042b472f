"""HAProxy in front of servers: every request goes to any of them that says it is ready."""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from hytrec_export.errors import ServerError
from hytrec_export.server.ports import free_port

PROGRAM = "haproxy"
HOST = "127.0.0.1"
_READY_S = 20.0
_CONFIGURATION = """\
global
    stats socket {folder}/stats.sock mode 600
    # The check reads the whole page of metrics.
    tune.bufsize 131072

defaults
    mode http
    timeout connect 1s
    timeout client 10m
    timeout server 10m
    timeout check 2s
    retries 3
    option redispatch

frontend grpc
    bind {host}:{port} proto h2
    default_backend servers

backend servers
    balance roundrobin
    option httpchk
    http-check connect default proto h1
    http-check send meth GET uri /metrics
    http-check expect rstring '(?m)^hytrec_server_up 1$'
    default-server proto h2 check inter 500ms fall 1 rise 1
"""


def has_haproxy() -> bool:
    """Whether haproxy is installed."""
    return shutil.which(PROGRAM) is not None


class Balancer:
    """A running HAProxy.

    Args:
        folder: for its files; must exist.
        servers: URLs of gRPC and of the metrics of each.
    """

    def __init__(self, folder: Path, servers: Sequence[tuple[str, str]]) -> None:
        self.port = free_port(HOST, set())
        self._folder = folder
        lines = [
            f"    server s{number} {grpc} port {urlsplit(metrics).port}"
            for number, (grpc, metrics) in enumerate(servers)
        ]
        text = _CONFIGURATION.format(folder=folder, host=HOST, port=self.port) + "\n".join([*lines, ""])
        (folder / "haproxy.cfg").write_text(text)
        with (folder / "haproxy.log").open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, "-db", "-f", folder / "haproxy.cfg"], stdout=log, stderr=log)
        deadline = time.monotonic() + _READY_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (folder / "haproxy.log").read_text(errors="replace")[-500:]
                self.close()
                raise ServerError(f"haproxy did not find {len(servers)} servers ready: {said}")
            time.sleep(0.05)

    @property
    def url(self) -> str:
        """As a client takes it."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def moved(self) -> int:
        """Bytes between clients and the balancer, both ways, as HTTP/2 carries them."""
        return sum(int(row["bin"]) + int(row["bout"]) for row in self._rows() if row["svname"] == "FRONTEND")

    def close(self) -> None:
        """End."""
        self._process.kill()
        self._process.wait()

    def _ready(self) -> bool:
        try:
            return all(row["status"].startswith("UP") for row in self._rows() if row["svname"].startswith("s"))
        except OSError:
            return False

    def _rows(self) -> list[dict[str, str]]:
        return read_statistics(self._folder / "stats.sock")


def read_statistics(socket_path: Path) -> list[dict[str, str]]:
    """HAProxy's own figures of every frontend, backend and server, by column.

    Raises:
        OSError: nobody listens at the socket.
    """
    with socket.socket(socket.AF_UNIX) as statistics:
        statistics.settimeout(_READY_S)
        statistics.connect(str(socket_path))
        statistics.sendall(b"show stat\n")
        text = b"".join(iter(lambda: statistics.recv(1 << 16), b"")).decode()
    return list(csv.DictReader(text.removeprefix("# ").splitlines()))


@contextmanager
def balancer(folder: Path, servers: Sequence[tuple[str, str]]) -> Iterator[Balancer]:
    """A balancer that ends with the block, once all servers are ready for it.

    Raises:
        ServerError: it does not start, or does not find the servers ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = Balancer(folder, servers)
    try:
        yield running
    finally:
        running.close()
