import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hytrec_export.errors import ServerError
from hytrec_export.server import ServerOptions
from hytrec_export.server.foreground import _start, _write_secret

COMMAND = """
import sys
from pathlib import Path
from hytrec_export.errors import ServerError
from hytrec_export.server import ServerOptions, run_until_stopped
from hytrec_export.server.access import AccessOptions

options = {"access": AccessOptions(insecure=True)}
options |= {"grpc_port": 0, "metrics_port": 0, "restart_delay_s": 0.05, "max_crashes": int(sys.argv[3])}
key_file = Path(sys.argv[1]).with_name("key")
try:
    run_until_stopped(
        ServerOptions(
            repository=Path(sys.argv[1]), host=sys.argv[2], admin_key_file=key_file, **options
        )
    )
except ServerError as error:
    sys.exit(f"Error: {error}")
"""

KILL_SERVER = """
import os, threading, time

def kill_server():
    while not os.path.exists({trigger!r}):
        time.sleep(0.02)
    os.kill(os.getppid(), 11)

threading.Thread(target=kill_server, daemon=True).start()
"""
EVERY_NETWORK = "0.0.0.0"  # noqa: S104 - the warning about it is tested
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(repository: Path) -> Iterator[Start]:
    """Start the command in a process of its own, as a terminal does."""
    running: list[subprocess.Popen[str]] = []

    def run(host: str = "127.0.0.1", max_crashes: int = 5) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(repository), host, str(max_crashes)],
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
    return dict(process.stdout.readline().split() for _ in range(2))


def until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """Lines of stderr up to the one that is wanted."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if line.startswith(wanted):
            return lines
    raise AssertionError(lines)


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
    assert "HTTP" not in urls
    assert urls["metrics"].endswith("/metrics")
    pid = server_of(process, python_models)
    models = python_models(pid)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == 0
    assert not any(map(alive, [pid, *models]))
    assert "Ctrl-C stops the server" in stderr
    told = "without TLS and a token, as --insecure says: anyone who reaches it can send requests"
    assert (told in stderr) == (number == signal.SIGTERM)


@pytest.mark.e2e
def test_a_server_that_was_killed_is_started_again_on_the_same_ports(
    start: Start, repository: Path, ask: Callable[[str, int], int], python_models: Callable[[int], list[int]]
) -> None:
    process = start()
    urls = endpoints(process)
    key_file = repository.with_name("key")
    for number, name in ((signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")):
        key = key_file.read_text()
        assert key_file.stat().st_mode & 0o777 == 0o600
        os.kill(server_of(process, python_models), number)
        lines = until(process, "the server is ready again, at the same addresses")
        assert any(
            f"tritonserver ended by itself (killed by {name}); starting it again in 0." in line for line in lines
        )
        assert ask(urls["gRPC"], 40) == 42
        assert key_file.read_text() != key
    with urllib.request.urlopen(urls["metrics"]) as page:  # noqa: S310
        metrics = page.read().decode()
    assert 'hytrec_server_restarts_total{cause="signal"} 2\n' in metrics
    assert "hytrec_server_up 1\n" in metrics
    assert "nv_inference_count" in metrics
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert not key_file.exists()


@pytest.mark.e2e
def test_a_python_model_that_ends_by_itself_restarts_the_server(
    start: Start,
    ask: Callable[[str, int], int],
    python_models: Callable[[int], list[int]],
    alive: Callable[[int], bool],
) -> None:
    process = start()
    urls = endpoints(process)
    server = server_of(process, python_models)
    models = python_models(server)
    os.kill(models[0], signal.SIGKILL)
    lines = until(process, "the server is ready again, at the same addresses")
    assert re.search(
        r"^python model (first|second) ended by itself \(killed, or out of memory\); tritonserver does not replace it "
        r"and requests to it would wait for ever, so the server is ended too; starting it again in 0.05 s "
        r"\(crash 1, gives up at 5 within 300 s\)$",
        "\n".join(lines),
        re.MULTILINE,
    )
    assert not any(map(alive, [server, *models]))
    assert ask(urls["gRPC"], 40) == 42


@pytest.mark.e2e
@pytest.mark.parametrize("max_crashes", [1, 2])
def test_a_server_that_always_dies_is_given_up(start: Start, repository: Path, max_crashes: int) -> None:
    model = repository / "first" / "1" / "model.py"
    model.write_text(KILL_SERVER.format(trigger=str(repository.with_name("die"))) + model.read_text())
    process = start(max_crashes=max_crashes)
    endpoints(process)
    repository.with_name("die").touch()
    stdout, stderr = process.communicate()
    assert process.returncode == 1
    assert stdout == ""
    assert stderr.count("; starting it again in ") == max_crashes - 1
    assert stderr.count("last lines of the server's log:") == max_crashes
    assert re.fullmatch(
        r"Error: tritonserver ended (by itself \(killed by SIGSEGV\)|while starting: killed by SIGSEGV; .*); "
        rf"it crashed {max_crashes} times within 300 s and is not started again; see its log above, or with --log, "
        r"and raise --max-crashes only if such crashes are expected",
        stderr.splitlines()[-1],
    )


@pytest.mark.e2e
def test_a_start_after_a_crash_that_fails_is_a_crash_too(
    start: Start, repository: Path, python_models: Callable[[int], list[int]]
) -> None:
    process = start(max_crashes=3)
    endpoints(process)
    (repository / "first" / "1" / "model.py").write_text("import nowhere")
    os.kill(server_of(process, python_models), signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("Error: model first failed to load: ModuleNotFoundError: No module named")
    assert "; it crashed 3 times within 300 s and is not started again; " in stderr


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


def test_an_admin_key_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        ServerError, match=r"^the admin key cannot be written \(.*No such file.*\); choose another --admin-key-file$"
    ):
        _write_secret(tmp_path / "missing" / "key", "k")


def test_an_admin_key_file_replaces_a_link_and_does_not_follow_it(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("untouched")
    (tmp_path / "key").symlink_to(tmp_path / "target")
    _write_secret(tmp_path / "key", "k")
    assert (tmp_path / "key").read_text() == "k\n"
    assert not (tmp_path / "key").is_symlink()
    assert (tmp_path / "target").read_text() == "untouched"


def test_the_admin_key_file_has_the_key_of_the_last_start(tmp_path: Path) -> None:
    """A start that is made again makes a new key."""

    class StartedTwice:
        admin_key = ""

        def start(self) -> None:
            self.admin_key = "first"

        def wait_ready(self, **_: Any) -> bool:
            assert file.read_text() == "first\n"
            self.admin_key = "second"
            return True

    file, server = tmp_path / "key", StartedTwice()
    options = ServerOptions(repository=tmp_path, admin_key_file=file)
    assert _start(server, options, [], Console(stderr=True))  # type: ignore[arg-type]
    assert file.read_text() == "second\n"
