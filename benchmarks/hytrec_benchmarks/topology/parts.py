"""The processes, and what is done to them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hytrec_benchmarks.fixtures.redis_groups import RedisGroup, redis_cluster
from hytrec_benchmarks.fixtures.serving import server_options
from hytrec_benchmarks.topology.balancer import HOST, Balancer, balancer
from hytrec_export.server import EmbeddedServer
from hytrec_export.server.ports import free_port
from hytrec_export.state.options import StoreOptions, default_snapshot_every
from hytrec_export.state.url import StoreUrl

SERVERS = 3
AWAY_S = 3.0
"""How long what was killed stays away; a replica takes over a Redis master within two."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """What runs.

    Args:
        front: the balancer.
        stored: the store as the servers have it.
        repositories: of the model that is served first, and of the new one.
    """

    servers: list[EmbeddedServer]
    redis: RedisGroup
    front: Balancer
    stored: StoreOptions
    repositories: tuple[Path, Path]

    def urls(self) -> list[str]:
        """gRPC endpoints of the servers."""
        return [server.grpc_url for server in self.servers]

    def roll(self) -> None:
        """Stop the first server in good order and start it again, on its ports, with the new model."""
        old = self.servers[0]
        ports = [int(url.rpartition(":")[2]) for url in (old.grpc_url, old.metrics_url.removesuffix("/metrics"))]
        old.stop()
        options = server_options(self.repositories[1], self.stored)
        new = EmbeddedServer(replace(options, grpc_port=ports[0], metrics_port=ports[1]))
        self.servers[0] = new
        new.start()
        new.wait_ready()

    def kill(self) -> None:
        """Kill the second server; it comes back after a while."""
        self.servers[1].kill()
        time.sleep(AWAY_S)
        self.servers[1].start()
        self.servers[1].wait_ready()

    def fail_over(self) -> None:
        """Kill a Redis master, whose replica takes over; it comes back as replica of that one."""
        master = self.redis.masters[0]
        master.kill()
        time.sleep(AWAY_S)
        master.start()


def _new_port(taken: set[int]) -> int:
    port = free_port(HOST, taken)
    taken.add(port)
    return port


@contextmanager
def running_topology(repository: Path, new_repository: Path, folder: Path) -> Iterator[Topology]:
    """Redis, servers of the first repository and the balancer, all ready; they end with the block.

    Raises:
        HytrecError: a part does not start.
    """
    with ExitStack() as running:
        redis = running.enter_context(
            redis_cluster(folder / "redis", replicas=1, appendonly="yes", appendfsync="always")
        )
        url = StoreUrl.parse(f"{redis.url}?replicas=1&timeout=1")
        stored = StoreOptions(url=url, snapshot_every=default_snapshot_every(url))
        servers = []
        ports: set[int] = set()  # servers that start at the same time do not listen yet on what they chose
        for _ in range(SERVERS):
            grpc_port, metrics_port = (_new_port(ports) for _ in range(2))
            options = replace(server_options(repository, stored), grpc_port=grpc_port, metrics_port=metrics_port)
            servers.append(EmbeddedServer(options))

        def end() -> None:
            for server in servers:
                server.kill()

        running.callback(end)
        for server in servers:
            server.start()
        for server in servers:
            server.wait_ready()
        places = [(server.grpc_url, server.metrics_url) for server in servers]
        front = running.enter_context(balancer(folder / "balancer", places))
        yield Topology(
            servers=servers, redis=redis, front=front, stored=stored, repositories=(repository, new_repository)
        )
