"""The tritonserver process: started so that it dies with this one, stopped so that nothing of it stays."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from hytrec_export import parent_death
from hytrec_export.errors import ServerError

PRIVATE_UMASK = 0o077
"""Of tritonserver and its python models: shared memory and files that they make are their owner's alone."""


class ServerProcess:
    """A running tritonserver.

    The kernel kills a child at the end of the *thread* that started it, so a thread of its own starts the server and
    waits for its end; the caller's thread may come and go.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path, lock_file: int) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._lock_file = lock_file
        self._started: queue.Queue[subprocess.Popen[bytes] | OSError] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="tritonserver", daemon=True)
        self._thread.start()
        started = self._started.get()
        if isinstance(started, OSError):
            raise ServerError(f"tritonserver cannot be started: {started}")
        self._process = started

    def _run(self) -> None:
        bound = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid()), *self._command]
        try:
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    bound,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    pass_fds=(self._lock_file,),
                    umask=PRIVATE_UMASK,
                    start_new_session=True,  # a Ctrl-C in the terminal is handled by this process
                )
        except OSError as error:
            self._started.put(error)
            return
        self._started.put(process)
        process.wait()

    @property
    def pid(self) -> int:
        """Process id of tritonserver."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def stop(self, timeout_s: float) -> None:
        """Let in-flight requests finish, then end; after `timeout_s` kill."""
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.wait()


def describe_exit(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
