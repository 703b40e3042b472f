import re
import shutil
import socket
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hytrec_export.errors import RepositoryError, ServerError
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.server.installation import Installation
from hytrec_export.server.stale_resources import SHARED_MEMORY

Ask = Callable[[str, int], int]
Processes = Callable[[int], list[int]]
Alive = Callable[[int], bool]


def fetch(url: str) -> str:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - the server's own http address
        return str(answer.read().decode())


@pytest.mark.e2e
def test_it_serves_and_stops_without_a_trace(
    options: ServerOptions, ask: Ask, python_models: Processes, alive: Alive
) -> None:
    with EmbeddedServer(replace(options, http=True)) as server:
        assert ask(server.grpc_url, 40) == 42
        assert "nv_inference_count" in fetch(server.metrics_url)
        assert '"chain"' in fetch(f"{server.http_url}/v2/models/chain")
        assert server.returncode is None
        assert server._lease is not None
        prefixes = [server._lease.shm_prefix]
        pid, models = server.pid, python_models(server.pid)
        assert len(models) == 2
        with pytest.raises(ServerError, match=rf"^the server runs already \(process {pid}\); stop it first$"):
            server.start()
        urls = server.grpc_url, server.http_url, server.metrics_url
        server.kill()
        assert server.returncode == -9
        server.start()
        server.wait_ready()
        assert (server.grpc_url, server.http_url, server.metrics_url) == urls
        assert ask(server.grpc_url, 40) == 42
        prefixes.append(server._lease.shm_prefix)
        models += python_models(server.pid)
    assert server.returncode == 0
    assert not any(map(alive, [pid, *models]))
    assert not [path for path in SHARED_MEMORY.iterdir() if path.name.startswith(tuple(prefixes))]
    assert "successfully loaded 'chain'" in server.log_tail(1000)


@pytest.mark.e2e
def test_it_outlives_the_thread_that_started_it(options: ServerOptions, ask: Ask) -> None:
    server = EmbeddedServer(options)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        server.wait_ready()
        assert ask(server.grpc_url, 0) == 2
    finally:
        server.kill()


@pytest.mark.e2e
def test_a_model_that_does_not_load_is_named_with_its_reason(options: ServerOptions) -> None:
    model = options.repository / "second" / "1" / "model.py"
    model.write_text("raise ValueError('the vocabulary is damaged')")
    server = EmbeddedServer(options)
    message = (
        "model second failed to load: ValueError: the vocabulary is damaged (see all of the server's log with --log)"
    )
    with pytest.raises(ServerError, match=f"^{re.escape(message)}$"), server:
        pass
    assert server.returncode is not None
    assert "failed to load 'second'" in server.log_tail()


@pytest.mark.e2e
def test_an_ensemble_without_its_step_is_named(options: ServerOptions) -> None:
    config = options.repository / "chain" / "config.pbtxt"
    config.write_text(config.read_text().replace('"second"', '"third"'))
    message = "the model repository failed to load: ensemble chain contains models that are not available or ambiguous"
    with pytest.raises(ServerError, match=rf"^{message}: third \(see all"), EmbeddedServer(options):
        pass


@pytest.mark.e2e
def test_a_server_that_ends_while_starting_says_why(options: ServerOptions) -> None:
    server = EmbeddedServer(replace(options, log_verbose=2**40))
    with (
        pytest.raises(ServerError, match=r"^tritonserver ended while starting: exit status \d+; see the server's log"),
        server,
    ):
        pass


LOCK_EXCEPTION = """#!{shell}
echo start >> "{starts}"
if [ "$(wc -l < "{starts}")" -gt {failing} ]; then exec "{program}" "$@"; fi
echo "terminate called after throwing an instance of 'boost::interprocess::lock_exception'"
echo "  what():  boost::interprocess::lock_exception"
kill -ABRT $$
"""


@pytest.fixture
def failing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[], int]]:
    """Makes the first starts of tritonserver die as its python backend does now and then; counts the starts."""
    found, starts = Installation.find(), tmp_path / "starts"

    def fail(failing: int) -> Callable[[], int]:
        program = tmp_path / "tritonserver"
        shell = shutil.which("bash")
        program.write_text(LOCK_EXCEPTION.format(shell=shell, starts=starts, failing=failing, program=found.program))
        program.chmod(0o700)
        monkeypatch.setattr(Installation, "find", lambda: replace(found, program=program))
        return lambda: len(starts.read_text().splitlines())

    return fail


@pytest.mark.e2e
def test_a_start_that_fails_by_a_known_race_of_triton_is_made_again(
    options: ServerOptions, ask: Ask, failing_starts: Callable[[int], Callable[[], int]]
) -> None:
    starts = failing_starts(2)
    with EmbeddedServer(options) as server:
        assert ask(server.grpc_url, 40) == 42
        assert 'hytrec_server_restarts_total{cause="start"} 2' in fetch(server.metrics_url)
    assert starts() == 3


@pytest.mark.e2e
def test_a_race_that_does_not_end_is_told(
    options: ServerOptions, failing_starts: Callable[[int], Callable[[], int]]
) -> None:
    starts = failing_starts(9)
    message = "tritonserver ended while starting: boost::interprocess::lock_exception"
    with pytest.raises(ServerError, match=f"^{message}$"), EmbeddedServer(options):
        pass
    assert starts() == 3


@pytest.mark.e2e
def test_a_model_that_hangs_is_named(options: ServerOptions) -> None:
    model = options.repository / "second" / "1" / "model.py"
    model.write_text("import time; time.sleep(600)")
    server = EmbeddedServer(replace(options, ready_timeout_s=2))
    message = (
        "tritonserver was not ready 2 s after its start (still loading: second); "
        "raise --ready-timeout, or see the server's log with --log"
    )
    with pytest.raises(ServerError, match=f"^{re.escape(message)}$"), server:
        pass
    assert server.returncode == -9


@pytest.mark.e2e
def test_the_environment_reaches_the_models_and_the_log_is_shown(
    options: ServerOptions, capfd: pytest.CaptureFixture[str]
) -> None:
    model = options.repository / "first" / "1" / "model.py"
    model.write_text("import os; raise ValueError(f'path is {os.environ[\"HYTREC_STATE_URL\"]}')")
    changed = replace(options, environment={"HYTREC_STATE_URL": "/here"}, log=True)
    with pytest.raises(ServerError, match="path is /here"), EmbeddedServer(changed):
        pass
    assert "path is /here" in capfd.readouterr().err


def test_a_taken_port_is_said_before_anything_starts(options: ServerOptions) -> None:
    with socket.socket() as listener:
        listener.bind((options.host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with (
            pytest.raises(ServerError, match=rf"^port {port} on 127.0.0.1 is taken; .* with --http-port"),
            EmbeddedServer(replace(options, http=True, http_port=port)),
        ):
            pass


def test_a_missing_repository_is_said(options: ServerOptions, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    message = f"{missing} is not a folder; build a repository with: hytrec-export build RUN"
    with pytest.raises(RepositoryError, match=f"^{re.escape(message)}$"):
        EmbeddedServer(replace(options, repository=missing)).start()
    missing.mkdir()
    message = f"{missing} holds no model (no */config.pbtxt); build a repository with: hytrec-export build RUN"
    with pytest.raises(RepositoryError, match=f"^{re.escape(message)}$"):
        EmbeddedServer(replace(options, repository=missing)).start()


def test_a_server_not_started_says_so(options: ServerOptions) -> None:
    server = EmbeddedServer(options)
    for read in (lambda: server.pid, lambda: server.grpc_url, server.poll_ready):
        with pytest.raises(ServerError, match=r"^the server was not started; call start\(\) first$"):
            read()
    assert server.log_tail() == ""
    server.stop()
    server.kill()
