"""The server's ports, checked before it starts: tritonserver reports a taken port only after loading every model."""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from dataclasses import dataclass, field

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
    def address(self) -> tuple[str, int]:
        """Where this machine reaches it."""
        return connect_host(self.host), self.port

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
    _held: list[socket.socket] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def take(cls, options: ServerOptions) -> Ports:
        """Check the named ports and choose free ones for the others.

        The chosen ones are held until `release`: tritonserver listens seconds later, when its models are loaded, and
        nobody else that looks for a free port finds them meanwhile.

        Raises:
            ServerError: a port cannot be listened on.
        """
        hosts = {"grpc": options.host, "http": http_host(options), "metrics": options.metrics_host}
        wanted = {"grpc": options.grpc_port, "http": options.http_port, "metrics": options.metrics_port}
        if not options.http:
            del wanted["http"]
        taken = {port for port in wanted.values() if port != ANY_PORT}
        held: list[socket.socket] = []
        try:
            for name, port in wanted.items():
                if port == ANY_PORT:
                    held.append(_held_port(hosts[name], taken))
                    wanted[name] = held[-1].getsockname()[1]
            found = {name: Listener(host=hosts[name], port=port) for name, port in wanted.items()}
            ports = cls(grpc=found["grpc"], http=found.get("http"), metrics=found["metrics"], _held=held)
            ports.check()
        except ServerError:
            _close(held)
            raise
        return ports

    def release(self) -> None:
        """Stop holding the chosen ports, once the server listens on them or never will."""
        _close(self._held)

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
    with _held_port(host, taken) as held:
        port: int = held.getsockname()[1]
        return port


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
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        code = _bind_error(probe, host, port)
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


def _held_port(host: str, taken: set[int]) -> socket.socket:
    """A socket bound to a random free port, none of `taken`.

    It does not listen and allows its address to be used again only once it is bound: a server may listen on the port,
    and another bind that does not share addresses, as this function's, fails (Linux looks at the sockets that there
    are, not at how they were bound).

    Raises:
        ServerError: as `free_port`.
    """
    for port in random.sample(_FREE_PORTS, min(_TRIES, len(_FREE_PORTS))):
        if port in taken:
            continue
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if _bind_error(holder, host, port) == 0:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return holder
    raise ServerError(f"no free port found on {host} in {_TRIES} tries; name ports with --grpc-port and the like")


def _close(held: list[socket.socket]) -> None:
    while held:
        held.pop().close()


def _bind_error(to_bind: socket.socket, host: str, port: int) -> int:
    """Error number of binding a socket to a port, 0 when it works; the socket is closed where it does not.

    Raises:
        ServerError: the host is not an IPv4 address of this machine.
    """
    try:
        to_bind.bind((host, port))
    except OSError as error:
        to_bind.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise _foreign(host) from None
        return error.errno or errno.EINVAL
    return 0


def _foreign(host: str) -> ServerError:
    return ServerError(
        f"{host} is not an IPv4 address of this machine; "
        "use --host 127.0.0.1 (this machine only) or 0.0.0.0 (every network)"
    )
