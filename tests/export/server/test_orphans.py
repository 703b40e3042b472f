"""Whatever is killed, nothing stays: python models in mid-execute, tritonserver, shared memory."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.server.stale_resources import SHARED_MEMORY, remove_stale_resources

Ask = Callable[[str, int], int]
Processes = Callable[[int], list[int]]
Alive = Callable[[int], bool]

HOLDS_THE_LOCK = 1001
SPINS = 1002
OWNER = """
import sys, time
from pathlib import Path
from hytrec_export.server import EmbeddedServer, ServerOptions

with EmbeddedServer(ServerOptions(repository=Path(sys.argv[1]), grpc_port=0, http_port=0, metrics_port=0)) as server:
    print(server.pid, server.grpc_url, server._lease.shm_prefix, flush=True)
    time.sleep(600)
"""


def busy_call(ask: Ask, grpc_url: str, number: int) -> threading.Thread:
    def call() -> None:
        with suppress(InferenceServerException):
            ask(grpc_url, number)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.3)
    return thread


@pytest.fixture
def owner(repository: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs a server."""
    command = [sys.executable, "-c", OWNER, str(repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.e2e
@pytest.mark.timeout(60)
def test_kill_9_of_the_server_ends_its_python_models_in_mid_execute(
    server: EmbeddedServer, ask: Ask, python_models: Processes, alive: Alive
) -> None:
    for busy in (HOLDS_THE_LOCK, SPINS):
        models = python_models(server.pid)
        assert len(models) == 2
        thread = busy_call(ask, server.grpc_url, busy)
        os.kill(server.pid, signal.SIGKILL)
        while server.returncode is None or any(map(alive, models)):  # the test's own time limit ends it
            time.sleep(0.01)
        thread.join()
        server.start()
        server.wait_ready()
        assert ask(server.grpc_url, 3) == 5


@pytest.mark.e2e
@pytest.mark.timeout(60)
def test_kill_9_of_the_owner_leaves_nothing_and_no_live_server_is_touched(
    owner: subprocess.Popen[str], options: ServerOptions, ask: Ask, python_models: Processes, alive: Alive
) -> None:
    assert owner.stdout is not None
    pid_text, grpc_url, shm_prefix = owner.stdout.readline().split()
    processes = [int(pid_text), *python_models(int(pid_text))]
    assert len(processes) == 3
    assert regions(shm_prefix) == 2
    with EmbeddedServer(options) as server:
        assert server._lease is not None
        assert regions(shm_prefix) == 2
        assert ask(grpc_url, 0) == 2
        thread = busy_call(ask, grpc_url, HOLDS_THE_LOCK)
        owner.kill()
        owner.wait()
        while any(map(alive, processes)):
            time.sleep(0.01)
        thread.join()
        while regions(shm_prefix):  # a killed process may need a moment to let go of its lock
            remove_stale_resources()
        assert regions(server._lease.shm_prefix) == 2
        assert ask(server.grpc_url, 0) == 2


def regions(shm_prefix: str) -> int:
    """Regions of shared memory of one server."""
    return len(list(SHARED_MEMORY.glob(f"{shm_prefix}*")))


@pytest.mark.e2e
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("unseen_by_others")
@pytest.mark.parametrize("next_start", [False, True])
def test_models_that_asked_for_nothing_are_ended_too(
    options: ServerOptions, ask: Ask, python_models: Processes, alive: Alive, next_start: bool
) -> None:
    for code in options.repository.glob("*/1/model.py"):
        code.write_text(code.read_text().replace("        die_with_parent()\n", "        pass\n"))
    server = EmbeddedServer(options)
    server.start()
    server.wait_ready()
    models = python_models(server.pid)
    assert len(models) == 2
    thread = busy_call(ask, server.grpc_url, HOLDS_THE_LOCK)
    os.kill(server.pid, signal.SIGKILL)
    thread.join()
    if next_start:
        assert any(map(alive, models))
        while any(map(alive, models)):
            remove_stale_resources()
    server.kill()
    assert not any(map(alive, models))
