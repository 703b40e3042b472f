import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = """
import sys
from pathlib import Path
from hytrec_export.errors import ServerError
from hytrec_export.server import ServerOptions, run_until_stopped

ports = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}
try:
    run_until_stopped(ServerOptions(repository=Path(sys.argv[1]), host=sys.argv[2], **ports))
except ServerError as error:
    sys.exit(f"Error: {error}")
"""

EVERY_NETWORK = "0.0.0.0"  # noqa: S104 - the warning about it is tested
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(repository: Path) -> Iterator[Start]:
    """Start the command in a process of its own, as a terminal does."""
    running: list[subprocess.Popen[str]] = []

    def run(host: str = "127.0.0.1") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(repository), host],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def endpoints(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    return dict(process.stdout.readline().split() for _ in range(3))


def server_of(process: subprocess.Popen[str], children: Callable[[int], list[int]]) -> int:
    (pid,) = children(process.pid)
    return pid


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_ends_everything(
    start: Start,
    number: signal.Signals,
    ask: Callable[[str, int], int],
    python_models: Callable[[int], list[int]],
    alive: Callable[[int], bool],
) -> None:
    process = start(EVERY_NETWORK if number == signal.SIGTERM else "localhost")
    urls = endpoints(process)
    assert ask(urls["gRPC"], 1 - 41) == -38
    assert urls["HTTP"].startswith(("http://127.0.0.1:", "http://localhost:"))
    assert urls["metrics"].endswith("/metrics")
    pid = server_of(process, python_models)
    models = python_models(pid)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == 0
    assert not any(map(alive, [pid, *models]))
    assert "Ctrl-C stops the server" in stderr
    assert ("whoever reaches it may call it" in stderr) == (number == signal.SIGTERM)


@pytest.mark.e2e
def test_a_server_that_ends_by_itself_is_reported(start: Start, python_models: Callable[[int], list[int]]) -> None:
    process = start()
    endpoints(process)
    os.kill(server_of(process, python_models), signal.SIGSEGV)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "Error: tritonserver ended by itself (killed by SIGSEGV); start it again\n" in stderr


@pytest.mark.e2e
def test_a_python_model_that_ends_by_itself_ends_the_server(
    start: Start, python_models: Callable[[int], list[int]], alive: Callable[[int], bool]
) -> None:
    process = start()
    endpoints(process)
    server = server_of(process, python_models)
    models = python_models(server)
    os.kill(models[0], signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert re.search(
        r"Error: python model (first|second) ended by itself \(killed, or out of memory\); tritonserver does not "
        r"replace it and calls to it would wait for ever, so the server is ended too; start it again\n",
        stderr,
    )
    assert not any(map(alive, [server, *models]))


@pytest.mark.e2e
def test_a_failed_start_shows_the_end_of_the_log(start: Start, repository: Path) -> None:
    (repository / "first" / "1" / "model.py").write_text("import nowhere")
    _, stderr = (process := start()).communicate()
    assert process.returncode == 1
    assert "last lines of the server's log:" in stderr
    assert stderr.splitlines()[-1].startswith("Error: model first failed to load: ModuleNotFoundError: No module named")


@pytest.mark.e2e
def test_a_stop_signal_while_loading_ends_everything(
    start: Start, repository: Path, python_models: Callable[[int], list[int]], alive: Callable[[int], bool]
) -> None:
    (repository / "first" / "1" / "model.py").write_text("import time; time.sleep(3)")
    process = start()
    while not (servers := python_models(process.pid)) or len(models := python_models(servers[0])) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in stderr
    assert not any(map(alive, [*servers, *models]))
