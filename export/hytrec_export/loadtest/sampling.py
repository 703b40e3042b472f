"""Samples the server's processes during a run: CPU, memory, and the GPU where there is one."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from hytrec_export.optional import require

INTERVAL_S = 0.5
SERVER_PROGRAM = "tritonserver"
_SHORTEST_S = 0.1
_MIB = 2**20
_SMI = ("--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")
_SMI_TIMEOUT_S = 5.0


def find_server(endpoint: str) -> Any | None:
    """The psutil.Process that listens at a gRPC endpoint of this machine; None for a remote or unknown one.

    Raises:
        MissingPackageError: psutil is not installed.
    """
    psutil = require("psutil", extra="loadtest")
    host, _, port = endpoint.rpartition(":")
    if not is_local(host.strip("[]")):
        return None
    for process in psutil.process_iter(["name"]):
        if not (process.info["name"] or "").startswith(SERVER_PROGRAM):
            continue
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(one.status == psutil.CONN_LISTEN and one.laddr.port == int(port) for one in connections):
            return process
    return None


def is_local(host: str) -> bool:
    """Whether a host name is an address of this machine."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {
        address.address.partition("%")[0]
        for addresses_of_one in require("psutil", extra="loadtest").net_if_addrs().values()
        for address in addresses_of_one
    }
    return any(ipaddress.ip_address(address).is_loopback or address in own for address in addresses)


@dataclass(kw_only=True)
class Usage:
    """Samples of one run.

    Args:
        cpu: cores busy, memory_mib: anonymous memory, both summed over the server's processes.
        gpu: percent busy, gpu_memory_mib: of the first GPU.
    """

    cpu: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    gpu: list[float] = field(default_factory=list)
    gpu_memory_mib: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, float | None]:
        """Means and maxima; None is "not available"."""
        return {
            "cpu_cores_mean": _mean(self.cpu),
            "cpu_cores_max": max(self.cpu, default=None),
            "memory_mib_mean": _mean(self.memory_mib),
            "memory_mib_max": max(self.memory_mib, default=None),
            "gpu_percent_mean": _mean(self.gpu),
            "gpu_memory_mib_max": max(self.gpu_memory_mib, default=None),
        }


def joined_usage(several: Iterable[Usage]) -> Usage:
    """Samples of several runs."""
    whole = Usage()
    for usage in several:
        for name, values in vars(usage).items():
            getattr(whole, name).extend(values)
    return whole


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


class Sampler:
    """Samples in a thread of its own, for as long as the block lasts."""

    def __init__(self, server: Any | None, usage: Usage, *, interval_s: float = INTERVAL_S) -> None:
        self._server = server
        self._usage = usage
        self._interval_s = interval_s
        self._over = threading.Event()
        self._smi = shutil.which("nvidia-smi") if server is not None else None
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._last: tuple[float, dict[int, float]] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        if self._server is None:
            return
        self._sample()
        while not self._over.wait(self._interval_s):
            self._sample()
        self._sample()

    def _sample(self) -> None:
        psutil = require("psutil", extra="loadtest")
        try:
            processes = [self._server, *self._server.children(recursive=True)]  # type: ignore[union-attr]
        except psutil.Error:
            return
        cpu_s, memory = {}, 0
        for process in processes:
            try:
                times = process.cpu_times()
                memory += anonymous_bytes(process)
            except (psutil.Error, OSError):
                continue
            cpu_s[process.pid] = times.user + times.system
        now = time.monotonic()
        if self._last is not None and now > self._last[0] + _SHORTEST_S:
            before = self._last[1]
            spent = sum(seconds - before.get(pid, seconds) for pid, seconds in cpu_s.items())
            self._usage.cpu.append(spent / (now - self._last[0]))
        self._usage.memory_mib.append(memory / _MIB)
        self._last = (now, cpu_s)
        self._sample_gpu()

    def _sample_gpu(self) -> None:
        if self._smi is None:
            return
        try:
            answer = subprocess.run(
                [self._smi, *_SMI], capture_output=True, text=True, check=True, timeout=_SMI_TIMEOUT_S
            )
            busy, used = (float(value) for value in answer.stdout.splitlines()[0].split(","))
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            self._smi = None
            return
        self._usage.gpu.append(busy)
        self._usage.gpu_memory_mib.append(used)


def anonymous_bytes(process: Any) -> int:
    """Memory of a process that no file stands behind; its resident memory where the system does not tell."""
    memory = process.memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))
