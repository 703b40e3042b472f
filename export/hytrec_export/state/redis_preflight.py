"""Whether Redis is set up to keep users: version, persistence, eviction, memory, TLS; what a failover can lose."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state.kinds import Remark
from hytrec_export.state.options import Durability
from hytrec_export.state.redis_address import RedisAddress
from hytrec_export.state.redis_nodes import RedisNodes

OLDEST = (6, 2)
_FULL = 0.9
_MIB = 1 << 20


def preflight(nodes: RedisNodes, durability: Durability, *, apart: bool = False) -> Iterator[Remark]:
    """Remarks on every node that takes writes.

    Args:
        apart: whether states are kept elsewhere.

    Raises:
        StoreUnavailableError: a node cannot be reached.
    """
    yield _network(nodes.address, with_password=nodes.has_password)
    for client in nodes.clients():
        info: dict[str, Any] = nodes.ask(client.info)
        name = nodes.name_of(client)
        yield _version(name, info)
        yield _persistence(name, info, _setting(nodes, client, "appendfsync"), durability)
        yield _memory(name, info, apart=apart)
        yield _replication(name, info, nodes.address.replicas)


def preflight_place(nodes: RedisNodes) -> Iterator[Remark]:
    """Remarks on every node that keeps states alone, which it may lose.

    Raises:
        StoreUnavailableError: a node cannot be reached.
    """
    yield _network(nodes.address, with_password=nodes.has_password)
    for client in nodes.clients():
        info: dict[str, Any] = nodes.ask(client.info)
        name = f"{nodes.name_of(client)} (states)"
        yield _version(name, info)
        yield _eviction(name, info)


def check_power(nodes: RedisNodes) -> None:
    """See that a write survives power loss where Redis acknowledges it.

    Raises:
        StoreUnavailableError: it does not, or Redis does not tell.
    """
    for client in nodes.clients():
        enabled, fsync = (_setting(nodes, client, name) for name in ("appendonly", "appendfsync"))
        if (enabled, fsync) != ("yes", "always"):
            raise StoreUnavailableError(
                f"the state store {nodes.address.url} loses acknowledged writes with the power of "
                f"{nodes.name_of(client)} (appendonly {enabled or 'unknown'}, appendfsync {fsync or 'unknown'}); "
                "set: appendonly yes, appendfsync always; or leave out --durability power"
            )


def _network(address: RedisAddress, *, with_password: bool) -> Remark:
    if address.tls:
        return Remark(good=True, text="Redis: connections are encrypted, and the server's certificate is checked")
    if all(_is_loopback(host) for host, _ in address.nodes):
        return Remark(good=True, text="Redis: it is on this machine, and connections stay on it")
    without = "" if with_password else ", nor is there a password"
    return Remark(
        good=False,
        text=f"Redis: histories cross the network unencrypted{without}; write rediss://, with ?ca=/PATH",
    )


def _version(name: str, info: Mapping[str, Any]) -> Remark:
    product = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if found < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Remark(good=False, text=f"{name}: {product} {version} is too old; use {oldest} or newer")
    return Remark(good=True, text=f"{name}: {product} {version}")


def _persistence(name: str, info: Mapping[str, Any], fsync: str | None, durability: Durability) -> Remark:
    if not info.get("aof_enabled"):
        lost = "what it acknowledged since its last dump is lost when it ends"
        if info.get("connected_slaves"):
            lost += ", and where it starts again before a replica takes over, on the replicas too"
        return Remark(
            good=False,
            text=f"{name}: it keeps no append-only file: {lost}; set: appendonly yes, appendfsync always",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        return Remark(good=False, text=f"{name}: it cannot write its append-only file; free its disk")
    if fsync == "always":
        return Remark(
            good=True, text=f"{name}: an acknowledged write survives its death and power loss (appendfsync always)"
        )
    text = f"{name}: an acknowledged write survives its death, and power loss takes the last seconds"
    if durability is Durability.POWER or fsync == "no":
        return Remark(good=False, text=f"{text} (appendfsync {fsync or 'unknown'}); set: appendfsync always")
    return Remark(good=True, text=f"{text} (appendfsync {fsync or 'unknown'}); none with appendfsync always")


def _eviction(name: str, info: Mapping[str, Any]) -> Remark:
    policy = str(info.get("maxmemory_policy", ""))
    if not info.get("maxmemory") or policy == "noeviction":
        return Remark(
            good=False,
            text=f"{name}: it keeps no more states when its memory is full (maxmemory {info.get('maxmemory', 0)}, "
            f"{policy}); set: maxmemory and maxmemory-policy volatile-lru",
        )
    return Remark(good=True, text=f"{name}: where its memory is full, states are evicted ({policy})")


def _memory(name: str, info: Mapping[str, Any], *, apart: bool) -> Remark:
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = str(info.get("maxmemory_policy", ""))
    if not limit:
        return Remark(
            good=False,
            text=f"{name}: it has no maxmemory, and the machine may run out; set: maxmemory and "
            f"maxmemory-policy {'noeviction' if apart else 'volatile-lru'}",
        )
    if apart:
        text = f"{name}: {used // _MIB} MiB of {limit // _MIB} MiB are used, and nothing is evicted"
        return Remark(good=used <= _FULL * limit, text=text + ("; raise maxmemory" if used > _FULL * limit else ""))
    if not policy.startswith("volatile"):
        return Remark(
            good=False,
            text=f"{name}: its maxmemory-policy is {policy}, and it must evict states alone; "
            "set: maxmemory-policy volatile-lru",
        )
    text = f"{name}: {used // _MIB} MiB of {limit // _MIB} MiB are used, and states are evicted first ({policy})"
    if used > _FULL * limit:
        return Remark(good=False, text=f"{text}; raise maxmemory before writes are refused")
    return Remark(good=True, text=text)


def _replication(name: str, info: Mapping[str, Any], wanted: int) -> Remark:
    if info.get("role") != "master":
        return Remark(good=False, text=f"{name}: it is a replica, which takes no writes; give the master's address")
    replicas = [value for key, value in info.items() if key.startswith("slave") and isinstance(value, dict)]
    there = sum(replica.get("state") == "online" for replica in replicas)
    if wanted > there:
        return Remark(
            good=False,
            text=f"{name}: {there} replicas are online, and replicas={wanted} are to confirm a write, so that every "
            "write gets UNAVAILABLE; start replicas, or ask for fewer",
        )
    if not there:
        return Remark(
            good=True, text=f"{name}: it has no replica: nothing takes over when it ends, and users wait for it"
        )
    if wanted == there:
        return Remark(
            good=True, text=f"{name}: a failover loses no acknowledged write, as all {there} replicas confirm it"
        )
    which = f"{wanted} of {there} replicas confirm" if wanted else "no replica confirms"
    return Remark(
        good=True,
        text=f"{name}: a failover may lose acknowledged writes of the last moments, as {which} a write; "
        f"none with ?replicas={there}",
    )


def _setting(nodes: RedisNodes, client: Any, name: str) -> str | None:
    """Of redis.conf; None where the server does not tell."""
    with suppress(StoreUnavailableError):
        found: dict[str, str] = nodes.ask(lambda: client.config_get(name))
        return found.get(name)
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
