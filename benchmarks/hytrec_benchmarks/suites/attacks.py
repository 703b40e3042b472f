"""What outsiders and malformed requests cannot do, what TLS and a token cost, and how soon a killed server is back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hytrec_benchmarks.faults.bad_neighbors import good_beside_bad
from hytrec_benchmarks.faults.fuzzing import fuzz_grpc, fuzz_http
from hytrec_benchmarks.faults.killer_requests import HTTP_KILLERS, grpc_killers, send_bytes, send_grpc
from hytrec_benchmarks.faults.outsiders import call_everything
from hytrec_benchmarks.faults.overload import overloaded
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context, Log, Weights
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import server_options, serving
from hytrec_clients import Credentials, Events, HytrecClient
from hytrec_clients.credentials import TOKEN_HEADER
from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer
from hytrec_export.server.access import AccessOptions
from hytrec_export.server.certificates import CertificateFiles, write_certificates
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl

MUTATED, QUICK_MUTATED = (100_000, 20_000), (400, 40)
"""gRPC and HTTP."""
GOOD_REQUESTS, QUICK_GOOD_REQUESTS = 10_000, 200
QUEUED_REQUESTS, QUICK_QUEUED_REQUESTS = 30_000, 600
PAIRED_REQUESTS, QUICK_PAIRED_REQUESTS = 2_000, 50
KILLS, QUICK_KILLS = 10, 1
_SERVE = "from hytrec_export.cli.app import main; main()"
_READY_TIMEOUT_S = 60.0


def measure(context: Context) -> dict[str, Figure]:
    """Attacks on real servers of a real model."""
    repository = context.repository(Log.RATINGS, Weights.REMEMBERING)
    folder = context.new_folder("attacks")
    say("requests that ended a server before")
    with serving(repository, folder / "killers") as (server, _):
        figures = survive(server)
    say("mutated requests")
    with serving(repository, folder / "mutated", http=True) as (server, _):
        figures |= _fuzz(server, context)
    say("good requests beside malformed ones")
    with serving(repository, folder / "neighbors") as (server, _):
        requests = QUICK_GOOD_REQUESTS if context.quick else GOOD_REQUESTS
        figures |= good_beside_bad(server.grpc_url, requests=requests)
    say("more requests than the server can do")
    with serving(repository, folder / "overload") as (server, store):
        queued = QUICK_QUEUED_REQUESTS if context.quick else QUEUED_REQUESTS
        figures |= overloaded(server, store, requests=queued)
    say("calls without a token, and what token and TLS cost")
    figures |= _access(repository, folder, requests=QUICK_PAIRED_REQUESTS if context.quick else PAIRED_REQUESTS)
    say("killing the server, and waiting for the next")
    figures["restart_ready_seconds"] = max(_restarts(repository, folder, QUICK_KILLS if context.quick else KILLS))
    return figures


def survive(server: EmbeddedServer) -> dict[str, Figure]:
    """Send every kind of killer to a server as it is by default; it is not sent on to one that has ended."""
    pid, sent, ended = server.pid, 0, 0
    kinds: list[Callable[[], object]] = [partial(send_grpc, server, killer) for killer in grpc_killers()]
    ports = (server.grpc_url, server.metrics_url.removeprefix("http://").partition("/")[0])
    kinds += [partial(send_bytes, address, data) for data in HTTP_KILLERS.values() for address in ports]
    for kind in kinds:
        with suppress(OSError):
            kind()
        sent += 1
        if server.returncode is not None or server.pid != pid or server.dead_models():
            ended += 1
            break
    return {"killer_requests_kinds": sent, "killer_requests_that_ended_service": ended}


def _fuzz(server: EmbeddedServer, context: Context) -> dict[str, Figure]:
    grpc_requests, http_requests = QUICK_MUTATED if context.quick else MUTATED
    pid = server.pid
    sent = fuzz_grpc(server.grpc_url, requests=grpc_requests, seed=context.seed).total()
    ended = server.returncode is not None or server.pid != pid or bool(server.dead_models())
    if not ended:
        address = (server.http_url or "").removeprefix("http://")
        sent += fuzz_http(address, requests=http_requests, seed=context.seed).total()
        ended = server.returncode is not None or bool(server.dead_models())
    return {"mutated_requests": sent, "mutated_requests_ended_service": int(ended)}


def _access(repository: Path, folder: Path, *, requests: int) -> dict[str, Figure]:
    files = write_certificates(folder / "certificates")
    token = AccessOptions(token_file=files.token)
    kinds = {
        "plain": (AccessOptions(), Credentials()),
        "token": (token, Credentials(token_file=files.token)),
        "tls": (
            replace(token, tls_cert=files.server_cert, tls_key=files.server_key),
            Credentials(token_file=files.token, tls_ca=files.ca),
        ),
    }
    with ExitStack() as stack:
        clients = {}
        for name, (access, credentials) in kinds.items():
            options = server_options(repository, StoreOptions(url=StoreUrl.of_folder(folder / f"state-{name}")))
            server = stack.enter_context(EmbeddedServer(replace(options, access=access)))
            clients[name] = stack.enter_context(HytrecClient(server.grpc_url, credentials=credentials))
        answered = _unauthenticated(server.grpc_url, files)
        p50_ms = _paired_p50_ms(clients, requests=requests)
    return {
        "unauthenticated_calls_answered": sum(not text for text in answered),
        "unauthenticated_calls": len(answered),
        "token_overhead_p50_ratio": p50_ms["token"] / p50_ms["plain"],
        "tls_overhead_p50_ratio": p50_ms["tls"] / p50_ms["plain"],
        **{f"access_{name}_p50_ms": value for name, value in p50_ms.items()},
    }


def _unauthenticated(url: str, files: CertificateFiles) -> list[str]:
    """What a server with TLS and a token says to calls without TLS, without a token, and with a wrong one."""
    grpc = require("grpc", extra="client")
    said: list[str] = []
    with grpc.insecure_channel(url) as channel:
        said += call_everything(channel, []).values()
    with grpc.secure_channel(url, Credentials(tls_ca=files.ca).channel()) as channel:
        for metadata in ([], [(TOKEN_HEADER, "x" * 43)]):
            said += call_everything(channel, metadata).values()
    return said


def _paired_p50_ms(clients: Mapping[str, HytrecClient], *, requests: int) -> dict[str, float]:
    """Median latency of a single event by client, the clients taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in clients}
    event = Events([1 << 40], [1_500_000_000])
    for number in range(requests):
        for name, client in clients.items():
            start = time.perf_counter()
            client.append(f"user-{number % 100}", event)
            taken[name].append(1_000 * (time.perf_counter() - start))
    return {name: float(np.median(values[len(values) // 10 :])) for name, values in taken.items()}


def _restarts(repository: Path, folder: Path, kills: int) -> Iterator[float]:
    """Seconds from SIGKILL of tritonserver under `hytrec-export serve` to its next answer."""
    for number in range(kills):
        with _command(repository, folder / f"state-{number}") as process:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            url = process.stdout.readline().split()[1]
            with HytrecClient(url, timeout_s=_READY_TIMEOUT_S) as client:
                client.append("ada")
                (server,) = require("psutil", extra="embedded").Process(process.pid).children()
                start = time.monotonic()
                os.kill(server.pid, signal.SIGKILL)
                server.wait()
                client.append("ada")
                yield time.monotonic() - start


@contextmanager
def _command(repository: Path, state: Path) -> Iterator[subprocess.Popen[str]]:
    options: list[Any] = ["--state", state, "--grpc-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-c", _SERVE, "serve", str(repository), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
