"""`hytrec-export serve`: a server in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import ipaddress
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from hytrec_export.errors import ServerError
from hytrec_export.server.embedded import EmbeddedServer
from hytrec_export.server.options import ServerOptions
from hytrec_export.server.ports import address_of
from hytrec_export.server.process import describe_exit

_LOOK_S = 0.05
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def print_endpoints(server: EmbeddedServer) -> None:
    """Say on stdout where the server listens."""
    print(f"gRPC     {server.grpc_url}")  # noqa: T201 - the command's result
    print(f"HTTP     {server.http_url}")  # noqa: T201
    print(f"metrics  {server.metrics_url}", flush=True)  # noqa: T201


def run_until_stopped(options: ServerOptions, *, announce: Callable[[EmbeddedServer], None] = print_endpoints) -> None:
    """Run a server until Ctrl-C or SIGTERM, and stop it cleanly; a second signal kills it.

    Must be called from the main thread, which alone hears signals.

    Args:
        announce: called once, when the server is ready.

    Raises:
        ServerError: the server could not start, or ended by itself; the tail of its log was printed on stderr.
    """
    stderr = Console(stderr=True, highlight=False)
    server = EmbeddedServer(options)
    with _stop_signals() as heard:
        try:
            _serve(server, options, announce, heard, stderr)
            server.stop()
        except KeyboardInterrupt:
            stderr.print("killing the server")
        except ServerError:
            if not options.log and (tail := server.log_tail()):
                stderr.print("last lines of the server's log:\n" + tail, markup=False, soft_wrap=True)
            raise
        finally:
            server.kill()


def _serve(
    server: EmbeddedServer,
    options: ServerOptions,
    announce: Callable[[EmbeddedServer], None],
    heard: list[int],
    stderr: Console,
) -> None:
    server.start()
    deadline = time.monotonic() + options.ready_timeout_s
    with stderr.status("loading models"):
        while not heard and not server.poll_ready():
            if time.monotonic() > deadline:
                server.wait_ready(0)
            time.sleep(_LOOK_S)
    if not heard:
        announce(server)
        if not ipaddress.ip_address(address_of(options.host)).is_loopback:
            stderr.print(f"listening on {options.host}: whoever reaches it may call it, there are no passwords")
        stderr.print("Ctrl-C stops the server")
    dead: list[str] = []
    while not heard:
        if (returncode := server.returncode) is not None:
            raise ServerError(f"tritonserver ended by itself ({describe_exit(returncode)}); start it again")
        if dead:
            raise ServerError(
                f"python model {', '.join(dead)} ended by itself (killed, or out of memory); tritonserver does not "
                "replace it and calls to it would wait for ever, so the server is ended too; start it again"
            )
        dead = server.dead_models()  # told one look later: a server that died took its models along
        time.sleep(_LOOK_S)
    stderr.print("stopping")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect stop signals instead of dying of them; the second one is a KeyboardInterrupt."""
    heard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)

    before = {number: signal.signal(number, hear) for number in _STOP_SIGNALS}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
