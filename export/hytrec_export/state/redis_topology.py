"""Which node takes the writes of a key: the only one, the master that Sentinel names, or a cluster's."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

from hytrec_export.state.redis_address import RedisAddress, Topology

MAX_CONNECTIONS = 16


class Nodes(Protocol):
    """Clients of nodes; safe to share between threads."""

    def of_key(self, key: bytes) -> Any:
        """Client of the node that takes writes of a key."""

    def at(self, host: str, port: int) -> Any:
        """Client of a node that another one named."""

    def all(self) -> list[Any]:
        """Client of each node that takes writes."""

    def name_of(self, client: Any) -> str:
        """Host and port of a client's node."""

    def look_again(self) -> None:
        """After a failure: another node may take the writes now."""

    def close(self) -> None:
        """Close all connections."""


def open_nodes(address: RedisAddress, password: str | None) -> Nodes:
    """Of an address; the package redis is installed.

    Raises:
        redis.exceptions.RedisError: no node of a cluster can be reached.
    """
    kinds: dict[Topology, type[_Single | _Sentinel | _Cluster]] = {
        Topology.SINGLE: _Single,
        Topology.SENTINEL: _Sentinel,
        Topology.CLUSTER: _Cluster,
    }
    return kinds[address.topology](address, _connection_options(address, password))


class _Single:
    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        host, port = address.nodes[0]
        redis: Any = import_module("redis")
        self._client = redis.Redis(host=host, port=port, **_client_options(address), **options)

    def of_key(self, key: bytes) -> Any:
        del key
        return self._client

    def at(self, host: str, port: int) -> Any:
        del host, port
        return self._client

    def all(self) -> list[Any]:
        return [self._client]

    def name_of(self, client: Any) -> str:
        options = client.connection_pool.connection_kwargs
        return f"{options['host']}:{options['port']}"

    def look_again(self) -> None:
        """There is no other."""

    def close(self) -> None:
        self._client.close()


class _Sentinel(_Single):
    """Each new connection asks the Sentinels for the master; they are asked without a password."""

    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        sentinel: Any = import_module("redis.sentinel")
        asking = {name: value for name, value in options.items() if name not in {"username", "password"}}
        self._sentinel = sentinel.Sentinel(address.nodes, sentinel_kwargs=_retry() | asking)
        self._client = self._sentinel.master_for(address.master, **_client_options(address), **options)

    def name_of(self, client: Any) -> str:
        host, port = client.connection_pool.get_master_address()
        return f"{host}:{port}"

    def look_again(self) -> None:
        self._client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        super().close()
        for client in self._sentinel.sentinels:
            client.close()


class _Cluster:
    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        cluster: Any = import_module("redis.cluster")
        self._errors: Any = import_module("redis.exceptions")
        self._cluster = cluster.RedisCluster(
            startup_nodes=[cluster.ClusterNode(host, port) for host, port in address.nodes],
            max_connections=MAX_CONNECTIONS,
            **options,
        )

    def of_key(self, key: bytes) -> Any:
        try:
            node = self._cluster.get_node_from_key(key)
        except self._errors.SlotNotCoveredError as error:
            raise self._errors.ClusterDownError(str(error)) from None
        return self._cluster.get_redis_connection(node)

    def at(self, host: str, port: int) -> Any:
        node = self._cluster.get_node(host, port)
        if node is None:
            self._cluster.nodes_manager.initialize()
            node = self._cluster.get_node(host, port)
        if node is None:
            raise self._errors.ClusterDownError(f"the cluster's node {host}:{port} is not known")
        return self._cluster.get_redis_connection(node)

    def all(self) -> list[Any]:
        return [self._cluster.get_redis_connection(node) for node in self._cluster.get_primaries()]

    def name_of(self, client: Any) -> str:
        options = client.connection_pool.connection_kwargs
        return f"{options['host']}:{options['port']}"

    def look_again(self) -> None:
        with suppress(self._errors.RedisError, self._errors.RedisClusterException):
            self._cluster.nodes_manager.initialize()

    def close(self) -> None:
        self._cluster.close()


def _client_options(address: RedisAddress) -> dict[str, Any]:
    return {"db": address.database, "max_connections": MAX_CONNECTIONS} | _retry()


def _retry() -> dict[str, Any]:
    """None by the package: it is known here what may be sent twice."""
    retry: Any = import_module("redis.retry")
    backoff: Any = import_module("redis.backoff")
    return {"retry": retry.Retry(backoff.NoBackoff(), 0)}


def _connection_options(address: RedisAddress, password: str | None) -> dict[str, Any]:
    """Of every connection."""
    options: dict[str, Any] = {
        "username": address.user,
        "password": password,
        "socket_timeout": address.timeout_s * (2 if address.replicas else 1),
        "socket_connect_timeout": address.timeout_s,
        "protocol": 2,
        "client_name": "hytrec",
        "ssl": address.tls,
    }
    names = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
    return options | {names[name]: str(path) for name, path in address.files.items() if name in names}
