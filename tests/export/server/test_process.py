import os
import sys
import time
from pathlib import Path

import pytest

from hytrec_export.errors import ServerError
from hytrec_export.server.process import ServerProcess, describe_exit


def start(log: Path, *code: str) -> ServerProcess:
    lock_file = os.open(os.devnull, os.O_RDONLY)
    try:
        return ServerProcess([sys.executable, "-c", *code], environment={"A": "b"}, log=log, lock_file=lock_file)
    finally:
        os.close(lock_file)


def test_output_and_environment_go_where_they_should(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "import os, sys; print(os.environ['A']); sys.exit('end')")
    while process.returncode is None:
        time.sleep(0.01)
    assert process.returncode == 1
    assert log.read_text().split() == ["end", "b"] or log.read_text().split() == ["b", "end"]


def test_a_program_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    process = start(log, code)
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
    process.stop(timeout_s=0.05)
    assert process.returncode == -9


def test_a_program_that_stops_is_not_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "import time; print(flush=True); time.sleep(600)")
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
    process.stop(timeout_s=600)
    assert process.returncode == -15


def test_a_server_that_cannot_be_started_is_said(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"^tritonserver cannot be started: .*No such file or directory"):
        start(tmp_path / "missing" / "log", "pass")


def test_ends_are_said_in_words() -> None:
    assert describe_exit(3) == "exit status 3"
    assert describe_exit(-11) == "killed by SIGSEGV"
    assert describe_exit(-63) == "killed by signal 63"
