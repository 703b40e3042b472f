"""perf_analyzer: where it is installed, its command line, and how a run ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hytrec_clients import Credentials
from hytrec_clients.credentials import TOKEN_HEADER
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.options import RATE_THREADS, Load, LoadKind
from hytrec_export.secret_arguments import hide_arguments

PROGRAM = "perf_analyzer"
FOLDER = ".perf_analyzer"
"""Where `make perf-analyzer` puts it, in the project's folder."""
_PROJECT = Path(__file__).resolve().parents[3]
_DELAYED = re.compile(r"([0-9.]+)% of the requests were delayed")
_WORKER_ERROR = re.compile(r"Thread \[\d+\] had error: (.*)")
_STOP_S = 5.0
_HIDE_POLL_S = 0.02


def find_perf_analyzer(given: Path | None, *, folders: Sequence[Path] = (Path(), _PROJECT)) -> Path:
    """The program: as given, on PATH, or where `make perf-analyzer` puts it.

    Raises:
        LoadTestError: it is not there.
    """
    if given is not None:
        if not (given.is_file() and os.access(given, os.X_OK)):
            raise LoadTestError(f"--perf-analyzer is {given}, which is not executable; run: make perf-analyzer")
        return given.resolve()
    if on_path := shutil.which(PROGRAM):
        return Path(on_path)
    for folder in folders:
        program = folder / FOLDER / PROGRAM
        if os.access(program, os.X_OK):
            return program.resolve()
    raise LoadTestError(
        "perf_analyzer is not installed; run: make perf-analyzer (it is looked for on PATH and in "
        f"{FOLDER}/; --perf-analyzer names another place)"
    )


def command_line(
    program: Path, *, model: str, endpoint: str, load: Load, requests: int, input_data: Path, export: Path
) -> list[str]:
    """Arguments of one run: a counted number of requests over gRPC, each thread one at a time."""
    if load.kind is LoadKind.CONCURRENCY:
        # Only with an explicit end does every in-flight request get a thread of its own.
        shape = [f"--concurrency-range={load.value:g}:{load.value:g}:1"]
    else:
        rate = f"{load.value:g}"
        shape = [f"--request-rate-range={rate}:{rate}:1", "--request-distribution=poisson"]
        shape += [f"--max-threads={RATE_THREADS}"]
    return [
        str(program),
        *("-m", model, "-u", endpoint, "-i", "grpc", "-b", "1", "--sync"),
        *shape,
        f"--request-count={requests}",
        f"--input-data={input_data}",
        f"--profile-export-file={export}",
    ]


def credential_arguments(credentials: Credentials, token: str | None) -> list[str]:
    """Arguments for TLS and a token; perf_analyzer takes headers from its command line only (see `Running`)."""
    files = {
        "root-certifications": credentials.tls_ca,
        "private-key": credentials.tls_key,
        "certificate-chain": credentials.tls_cert,
    }
    arguments = ["--ssl-grpc-use-ssl"] if credentials.secure else []
    for name, path in files.items():
        if path is not None:
            arguments.append(f"--ssl-grpc-{name}-file={path.absolute()}")
    return arguments if token is None else [*arguments, "-H", f"{TOKEN_HEADER}:{token}"]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended.

    Args:
        failure: what perf_analyzer said, one line; None where it ended well.
        delayed: share of the requests that it sent later than the rate wanted.
    """

    failure: str | None
    delayed: float = 0.0


class Running:
    """A running perf_analyzer; killed with all its threads when the block ends before it does.

    Args:
        secret: overwritten in its command line once it has read it.
    """

    def __init__(self, command: Sequence[str], *, log: Path, secret: str | None = None) -> None:
        self._log = log
        self._file = log.open("wb")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True
        )
        if secret is not None:
            threading.Thread(target=self._hide, args=(secret,), daemon=True).start()

    def _hide(self, secret: str) -> None:
        """It has read its arguments when it prints."""
        while self._process.poll() is None:
            if self._log.stat().st_size and hide_arguments(self._process.pid, [secret]):
                return
            time.sleep(_HIDE_POLL_S)

    def ending(self, deadline: float) -> Ending:
        """Wait for the end, until `deadline` on the monotonic clock."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            return Ending(
                failure="perf_analyzer did not end in time and was killed; raise --timeout, or lower --requests"
            )
        self._file.close()
        return ending_of(self._process.returncode, self._log.read_text(errors="replace"))

    def kill(self) -> None:
        """End it at once; it waits for ever when it is only interrupted (2.50; seen)."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_STOP_S)
        self._file.close()


def ending_of(returncode: int, text: str) -> Ending:
    """What an exit status and the text printed say."""
    delayed = _DELAYED.search(text)
    if returncode == 0:
        return Ending(failure=None, delayed=float(delayed[1]) / 100 if delayed else 0.0)
    worker = _WORKER_ERROR.search(text)
    errors = [line for line in text.splitlines() if line.lower().startswith("error")]
    lines = [line for line in text.splitlines() if line.strip()]
    said = worker[1] if worker else (errors or lines[-1:] or ["nothing"])[0]
    return Ending(failure=f"perf_analyzer said: {' '.join(said.split())} (exit status {returncode})")
