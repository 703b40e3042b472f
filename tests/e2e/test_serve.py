"""`hytrec-export serve` as a terminal runs it, on a real build: it starts, says what is wrong, and leaves nothing."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hytrec_clients import DeadlineExceeded, Events, HytrecClient
from hytrec_export.repository.manifest import Manifest
from hytrec_export.server.stub_processes import has_ended, python_models

pytestmark = pytest.mark.e2e

COMMAND = "from hytrec_export.cli.app import main; main()"
ANY_PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve_command() -> Iterator[Run]:
    """Run `hytrec-export serve` with any arguments; killed in the end."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", COMMAND, "serve", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def command(built: Any, serve_command: Run, tmp_path: Path) -> Run:
    """Serve the built repository with a state store of the test's own."""
    return lambda *options: serve_command(str(built.repository), "--state", str(tmp_path / "state"), *options)


def endpoints(process: "subprocess.Popen[str]") -> dict[str, str]:
    assert process.stdout
    lines = [process.stdout.readline().split() for _ in range(2)]
    if not all(lines):  # it ended: the reason is the test's message
        _, stderr = process.communicate()
        pytest.fail(f"serve ended with exit status {process.returncode}: {stderr}")
    return dict(lines)


def grpc_url(process: "subprocess.Popen[str]") -> str:
    return endpoints(process)["gRPC"]


def metric_lines(url: str) -> set[str]:
    with urllib.request.urlopen(url) as page:  # noqa: S310
        return set(page.read().decode().splitlines())


def processes_of(process: "subprocess.Popen[str]") -> dict[int, str]:
    """tritonserver and its python models, by process id."""
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    (server,) = (int(pid) for thread in children for pid in thread.read_text().split())
    return {server: "tritonserver", **python_models(server)}


def test_it_serves_until_sigterm_and_keeps_the_state(command: Run) -> None:
    first = command(*ANY_PORTS)
    urls = endpoints(first)
    with HytrecClient(urls["gRPC"]) as client:
        receipt = client.append("ada", Events([1000, 1001], [10, 20]))
        assert receipt.event_count == 2
    expected = {
        'hytrec_requests_total{endpoint="hytrec_append",code="OK"} 1',
        'hytrec_applied_events_total{endpoint="hytrec_append"} 2',
        'hytrec_states_total{status="new"} 1',
        'hytrec_request_duration_seconds_count{endpoint="hytrec_append"} 1',
        'hytrec_step_duration_seconds_count{step="hytrec_state_save"} 1',
        "hytrec_server_up 1",
    }
    while not expected <= (lines := metric_lines(urls["metrics"])):  # published once a second
        time.sleep(0.1)
    (info,) = (line for line in lines if line.startswith("hytrec_build_info{"))
    assert f'model_fingerprint="{receipt.model_fingerprint}"' in info
    assert 'target="embedded"' in info
    assert any(line.startswith('hytrec_state_bytes{file="users.sqlite3"} ') for line in lines)
    assert not [line for line in lines if "ada" in line]
    processes = processes_of(first)
    assert sorted(processes.values()) == [
        "hytrec_forget",
        "hytrec_fused",
        "hytrec_fused",
        "hytrec_fused_append",
        "tritonserver",
    ]
    first.send_signal(signal.SIGTERM)
    _, stderr = first.communicate()
    assert first.returncode == 0, stderr
    assert all(map(has_ended, processes))
    second = command(*ANY_PORTS)
    with HytrecClient(grpc_url(second)) as client:
        assert client.append("ada", Events.one(1002, 30), expected_event_count=2).event_count == 3
    processes = processes_of(second)
    second.kill()  # SIGKILL: no clean-up
    while not all(map(has_ended, processes)):  # the test's own time limit ends it
        time.sleep(0.02)


def test_the_state_is_its_owners_alone_whatever_the_umask_and_an_open_folder_is_told(
    command: Run, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    before = os.umask(0)
    try:
        state.mkdir(mode=0o755)
        process = command(*ANY_PORTS)
    finally:
        os.umask(before)
    with HytrecClient(grpc_url(process)) as client:
        events = Events(list(range(1000, 1090)), list(range(1, 91)))
        assert client.append("ada", events).event_count == 90
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert f"{state} is open to other users (mode 755); run: chmod 700 {state}\n" in stderr
    files = [path for path in state.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert [path.name for path in files if path.stat().st_mode & 0o077] == []


def test_a_taken_port_is_one_line(served: Any, command: Run) -> None:
    port = served.url.rsplit(":", 1)[1]
    process = command("--grpc-port", port, "--http-port", "0", "--metrics-port", "0")
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (1, "")
    assert re.fullmatch(
        rf"error: port {port} on 127\.0\.0\.1 is taken; stop the program that uses it, or choose another port with "
        r"--grpc-port \(0 takes any free one\)\n",
        stderr,
    )


@pytest.mark.parametrize("victim", ["tritonserver", "hytrec_fused", "hytrec_fused_append"])
def test_a_server_that_is_killed_comes_back_at_the_same_address_and_loses_nothing(command: Run, victim: str) -> None:
    process = command(*ANY_PORTS)
    with HytrecClient(grpc_url(process), timeout_s=30) as client:
        assert client.append("ada", Events([1000, 1001], [10, 20])).event_count == 2
        processes = processes_of(process)
        os.kill(next(pid for pid, name in processes.items() if name == victim), signal.SIGKILL)
        assert process.stderr
        lines = list(iter(process.stderr.readline, "the server is ready again, at the same addresses\n"))
        assert all(map(has_ended, processes))
        assert any(f"{victim} ended by itself (killed" in line for line in lines), lines
        assert client.append("ada", Events.one(1002, 30), expected_event_count=2).event_count == 3
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 0


def test_a_repository_and_a_state_store_in_a_folder_with_a_blank_and_an_umlaut(
    built: Any, serve_command: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "my model é"
    shutil.copytree(built.repository, folder / "repository")
    for count in (1, 2):
        process = serve_command(str(folder / "repository"), "--state", str(folder / "state"), *ANY_PORTS)
        with HytrecClient(grpc_url(process), timeout_s=30) as client:
            assert client.append("ada", Events.one(999 + count, 10 * count)).event_count == count
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert (folder / "state" / "users.sqlite3").exists()


def test_a_repository_of_another_target_is_one_line(built: Any, serve_command: Run, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(built.repository, repository)
    manifest = Manifest.load(repository)
    replace(manifest, options=manifest.options | {"target": "onnxruntime"}).save(repository)
    _, stderr = (process := serve_command(str(repository), *ANY_PORTS)).communicate()
    assert process.returncode == 1
    assert stderr.startswith(
        f"error: {repository} was built for target onnxruntime, and the pip-installed tritonserver"
    )
    assert "TARGET.md says how to serve it" in stderr


def test_without_its_guard_a_dead_python_model_means_no_answer_and_no_change(serve: Any, built_apart: Path) -> None:
    with serve(built_apart) as served, served.client(timeout_s=1.0) as client:
        assert client.append("ada", Events([1000, 1001], [10, 20]), timeout_s=30).event_count == 2
        for count, name in enumerate(("hytrec_encoder", "hytrec_state_save"), 2):
            assert served.server.dead_models() == []
            (pid,) = (pid for pid, model in python_models(served.server.pid).items() if model == name)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(DeadlineExceeded) as caught:
                client.append("ada", Events.one(1002, 30))
            assert served.server.dead_models() == [name]
            assert served.user("ada").event_count == count
            served.server.kill()
            served.server.start()
            served.server.wait_ready()
            again = client.append("ada", Events.one(1002, 30), request_id=caught.value.request_id, timeout_s=30)
            assert (again.event_count, again.applied) == (count + 1, True)
