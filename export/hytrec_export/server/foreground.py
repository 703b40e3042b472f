"""`hytrec-export serve`: a server in the foreground until Ctrl-C or SIGTERM, started again after a crash."""

from __future__ import annotations

import ipaddress
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from hytrec.private_file import private_file
from hytrec_export.errors import ExportError, ServerError
from hytrec_export.server.access import open_to_others
from hytrec_export.server.embedded import EmbeddedServer
from hytrec_export.server.metrics_endpoint import CrashCause
from hytrec_export.server.options import ServerOptions
from hytrec_export.server.ports import address_of
from hytrec_export.server.process import describe_exit
from hytrec_export.server.restarts import RestartPolicy
from hytrec_export.server.served_repository import check_files, check_target, described_build

CHECKED_FILE = "repository.json"
"""In the folder of the state store: what was found right of the repository's files."""
_POLL_S = 0.05
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Crash:
    """How a server ended: for the metrics, and in words."""

    cause: CrashCause
    text: str


def print_endpoints(server: EmbeddedServer) -> None:
    """Print on stdout where the server listens."""
    print(f"gRPC     {server.grpc_url}")  # noqa: T201 - the command's result
    if server.http_url is not None:
        print(f"HTTP     {server.http_url}")  # noqa: T201
    print(f"metrics  {server.metrics_url}", flush=True)  # noqa: T201


def run_until_stopped(options: ServerOptions, *, announce: Callable[[EmbeddedServer], None] = print_endpoints) -> None:
    """Run a server until Ctrl-C or SIGTERM, and stop it cleanly; a second signal kills it.

    A server that crashes is started again on the same ports, at most `options.max_crashes` times within
    `options.crash_window_s`. Must be called from the main thread, which alone gets signals.

    Args:
        announce: called once, when the server is ready for the first time.

    Raises:
        RepositoryError: the repository is of another target, or no repository, or a file of it was changed.
        ServerError: the server could not start, or crashed too often; the tail of its log was printed on stderr.
    """
    options.access.check(options.host, address=address_of(options.host))
    check_target(options.repository)
    folder = options.state_folder
    check_files(options.repository, folder / CHECKED_FILE if folder else None)
    stderr = Console(stderr=True, highlight=False)
    server = EmbeddedServer(options)
    server.record.info = described_build(options.repository)
    with _stop_signals() as signals, _removed_at_end(options.admin_key_file):
        try:
            _serve(server, options, announce, signals, stderr)
            server.stop()
        except KeyboardInterrupt:
            stderr.print("killing the server")
        except ServerError:
            _print_tail(server, options, stderr)
            raise
        finally:
            server.kill()


def _serve(
    server: EmbeddedServer,
    options: ServerOptions,
    announce: Callable[[EmbeddedServer], None],
    signals: list[int],
    stderr: Console,
) -> None:
    policy = RestartPolicy(options)
    announced = False
    while not signals:
        try:
            if not _start(server, options, signals, stderr):
                break
            if announced:
                stderr.print("the server is ready again, at the same addresses")
            else:
                announce(server)
                announced = True
                _print_notes(options, stderr)
            crash = _crash_of(server, signals)
        except ExportError as error:
            if not announced:
                raise
            crash = Crash(cause=CrashCause.START, text=str(error))
        if crash is None:
            break
        delay_s = policy.delay_after_crash()
        if delay_s is None:
            raise ServerError(
                f"{crash.text}; it crashed {policy.crashes} times within {options.crash_window_s:g} s and is not "
                "started again; see its log above, or with --log, and raise --max-crashes only if such crashes are "
                "expected"
            )
        server.end_crashed(crash.cause)
        _print_tail(server, options, stderr)
        stderr.print(
            f"{crash.text}; starting it again in {delay_s:g} s (crash {policy.crashes}, gives up at "
            f"{options.max_crashes} within {options.crash_window_s:g} s)",
            soft_wrap=True,
        )
        _sleep(delay_s, signals)
    stderr.print("stopping")


def _start(server: EmbeddedServer, options: ServerOptions, signals: list[int], stderr: Console) -> bool:
    """Start the server and wait until it is ready; False when a stop signal came first."""
    server.start()
    key, file = server.admin_key, options.admin_key_file
    if file is not None:
        _write_secret(file, key)
    with stderr.status("loading models"):
        ready = server.wait_ready(cancelled=lambda: bool(signals))
    if file is not None and server.admin_key != key:  # it was started twice
        _write_secret(file, server.admin_key)
    return ready


def _crash_of(server: EmbeddedServer, signals: list[int]) -> Crash | None:
    """Wait until the server or one of its python models ends, and say how; None when a stop signal came first."""
    dead: list[str] = []
    while not signals:
        if (returncode := server.returncode) is not None:
            cause = CrashCause.SIGNAL if returncode < 0 else CrashCause.EXIT
            return Crash(cause=cause, text=f"tritonserver ended by itself ({describe_exit(returncode)})")
        if dead:
            return Crash(
                cause=CrashCause.PYTHON_MODEL,
                text=f"python model {', '.join(dead)} ended by itself (killed, or out of memory); tritonserver does "
                "not replace it and requests to it would wait for ever, so the server is ended too",
            )
        dead = server.dead_models()  # reported one poll later: a server that died took its models along
        time.sleep(_POLL_S)
    return None


def _sleep(seconds: float, signals: list[int]) -> None:
    deadline = time.monotonic() + seconds
    while not signals and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _print_notes(options: ServerOptions, stderr: Console) -> None:
    access = options.access
    lacking = [name for name, value in (("TLS", access.tls_cert), ("a token", access.token_file)) if value is None]
    if lacking and not ipaddress.ip_address(address_of(options.host)).is_loopback:
        stderr.print(
            f"listening on {options.host} without {' and '.join(lacking)}, as --insecure says: "
            + ("anyone who reaches it can send requests" if "a token" in lacking else "others can read requests"),
            soft_wrap=True,
        )
    state = options.state_folder
    for path in (*access.secret_files(), *([state] if state else [])):
        if path.exists() and (advice := open_to_others(path)):
            stderr.print(advice, markup=False, soft_wrap=True)
    stderr.print("Ctrl-C stops the server")


def _print_tail(server: EmbeddedServer, options: ServerOptions, stderr: Console) -> None:
    if not options.log and (tail := server.log_tail()):
        stderr.print("last lines of the server's log:\n" + tail, markup=False, soft_wrap=True)


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only this user can read, in one step.

    Raises:
        ServerError: it cannot be written.
    """
    try:
        with private_file(path) as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise ServerError(f"the admin key cannot be written ({error}); choose another --admin-key-file") from error


@contextmanager
def _removed_at_end(path: Path | None) -> Iterator[None]:
    try:
        yield
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect stop signals instead of dying of them; the second one is a KeyboardInterrupt."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, receive) for number in _STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
