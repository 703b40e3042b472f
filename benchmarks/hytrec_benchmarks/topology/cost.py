"""What requests cost by part: processor time of servers, Redis, balancer and client, and bytes on the network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.redis_server import RedisServer
from hytrec_benchmarks.topology.balancer import Balancer
from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer


class Meter:
    """Counts from `start` to `stop`, in which no process may end.

    Args:
        redis: all nodes.
    """

    def __init__(self, servers: Sequence[EmbeddedServer], redis: Sequence[RedisServer], front: Balancer) -> None:
        self._servers = servers
        self._redis = redis
        self._front = front
        self._begun: dict[str, float] = {}

    def start(self) -> None:
        """Begin."""
        self._begun = self._read()

    def stop(self, *, requests: int, balanced: int) -> dict[str, Figure]:
        """Figures of a request.

        Args:
            requests: sent since the start.
            balanced: those of them that went through the balancer.
        """
        spent = {name: value - self._begun[name] for name, value in self._read().items()}
        count, through = max(requests, 1), max(balanced, 1)
        return {
            "topology_requests_per_s": requests / spent["seconds"],
            "topology_server_core_ms_per_request": 1e3 * spent["server"] / count,
            "topology_redis_core_ms_per_request": 1e3 * spent["redis"] / count,
            "topology_balancer_core_ms_per_balanced_request": 1e3 * spent["balancer"] / through,
            "topology_client_core_ms_per_request": 1e3 * spent["client"] / count,
            "topology_redis_bytes_per_request": spent["moved"] / count,
            "topology_replication_bytes_per_request": spent["replicated"] / count,
            "topology_balancer_bytes_per_balanced_request": spent["balancer_moved"] / through,
        }

    def _read(self) -> dict[str, float]:
        found = {
            "seconds": time.monotonic(),
            "client": time.process_time(),
            "server": sum((_processor_s(server.pid) for server in self._servers), 0.0),
            "redis": sum((_processor_s(node.pid) for node in self._redis), 0.0),
            "balancer": _processor_s(self._front.pid),
            "balancer_moved": float(self._front.moved()),
            "moved": 0.0,
            "replicated": 0.0,
        }
        for node in self._redis:
            said = node.client.info("stats")
            copied = said["total_net_repl_input_bytes"] + said["total_net_repl_output_bytes"]
            found["moved"] += said["total_net_input_bytes"] + said["total_net_output_bytes"] - copied
            found["replicated"] += said["total_net_repl_output_bytes"]
        return found


def _processor_s(pid: int) -> float:
    """Of a process and its children, user and system."""
    psutil: Any = require("psutil", extra="embedded")
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))
