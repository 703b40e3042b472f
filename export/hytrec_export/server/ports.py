"""The server's ports, checked before it starts: tritonserver reports a taken port only after loading every model."""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from dataclasses import dataclass

from hytrec_export.errors import ServerError
from hytrec_export.server.options import ANY_PORT, LOOPBACK, ServerOptions

# Below the range from which the kernel takes the ports of outgoing connections, so that a client's connection cannot
# take a chosen port in the moment before the server does.
_FREE_PORTS = range(20_000, 32_000)
_TRIES = 200
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Where an endpoint listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """host:port by which this machine reaches it."""
        return f"{connect_host(self.host)}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where a server listens; HTTP only where it was asked for."""

    grpc: Listener
    http: Listener | None
    metrics: Listener

    @classmethod
    def take(cls, options: ServerOptions) -> Ports:
        """Check the named ports and choose free ones for the others.

        Raises:
            ServerError: a port cannot be listened on.
        """
        hosts = {"grpc": options.host, "http": http_host(options), "metrics": options.metrics_host}
        wanted = {"grpc": options.grpc_port, "http": options.http_port, "metrics": options.metrics_port}
        if not options.http:
            del wanted["http"]
        taken = {port for port in wanted.values() if port != ANY_PORT}
        for name, port in wanted.items():
            if port == ANY_PORT:
                wanted[name] = free_port(hosts[name], taken)
                taken.add(wanted[name])
        found = {name: Listener(host=hosts[name], port=port) for name, port in wanted.items()}
        ports = cls(grpc=found["grpc"], http=found.get("http"), metrics=found["metrics"])
        ports.check()
        return ports

    def check(self, *, metrics: bool = True) -> None:
        """See whether the ports can be listened on.

        Args:
            metrics: not where this process listens on that port already.

        Raises:
            ServerError: one cannot.
        """
        for name in ("grpc", "http", "metrics") if metrics else ("grpc", "http"):
            if (listener := getattr(self, name)) is not None:
                _check(listener.host, listener.port, option=f"--{name}-port")


def http_host(options: ServerOptions) -> str:
    """Where HTTP listens: it knows no TLS, so beyond loopback only where that was wanted in so many words."""
    reachable = not ipaddress.ip_address(address_of(options.host)).is_loopback
    return LOOPBACK if reachable and not options.access.insecure else options.host


def free_port(host: str, taken: set[int]) -> int:
    """A random port on which nobody listens, none of `taken`.

    Raises:
        ServerError: the host is not an address of this machine, or no port was found.
    """
    for port in random.sample(_FREE_PORTS, _TRIES):
        if port not in taken and _bind_error(host, port) == 0:
            return port
    raise ServerError(f"no free port found on {host} in {_TRIES} tries; name ports with --grpc-port and the like")


def address_of(host: str) -> str:
    """IPv4 address of a host; tritonserver takes no names.

    Raises:
        ServerError: the name is not known.
    """
    try:
        return socket.gethostbyname(host)
    except OSError:
        raise _foreign(host) from None


def connect_host(host: str) -> str:
    """Address by which this machine reaches a server that listens on `host`."""
    return "127.0.0.1" if host == _ANY_ADDRESS else host


def _check(host: str, port: int, *, option: str) -> None:
    code = _bind_error(host, port)
    if code == errno.EADDRINUSE:
        raise ServerError(
            f"port {port} on {host} is taken; stop the program that uses it, "
            f"or choose another port with {option} (0 takes any free one)"
        )
    if code == errno.EACCES:
        raise ServerError(f"port {port} is not allowed to this user; choose one over 1023 with {option}")
    if code:
        raise ServerError(
            f"port {port} on {host} cannot be used ({errno.errorcode[code]}); choose another with {option}"
        )


def _bind_error(host: str, port: int) -> int:
    """Error number of listening on a port, 0 when it works.

    Raises:
        ServerError: the host is not an IPv4 address of this machine.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise _foreign(host) from None
            return error.errno or errno.EINVAL
    return 0


def _foreign(host: str) -> ServerError:
    return ServerError(
        f"{host} is not an IPv4 address of this machine; "
        "use --host 127.0.0.1 (this machine only) or 0.0.0.0 (every network)"
    )
