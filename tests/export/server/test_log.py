import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hytrec_export.server import log
from hytrec_export.server.log import ServerLog, first_line

QUIET = 'I1122 08:20:34.9 1 model_lifecycle.cc:472] "loading: m0:1"\n'
CONFIG_FAILED = (
    "[libprotobuf ERROR text_format.cc:337] Error parsing text-format inference.ModelConfig: 1:86: Unknown value.\n"
    "E1122 08:20:37.9 1 model_repository_manager.cc:1460] \"Poll failed for model directory 'm1': failed to read text "
    'proto from repo/m1/config.pbtxt"\n'
)
ENSEMBLE_FAILED = (
    'E1122 08:20:58.2 1 model_repository_manager.cc:703] "Invalid argument: ensemble e lacks m"\n'
    "error: creating server: Internal - failed to load all models\n"
)
NOISE = (
    'W1122 pinned_memory_manager.cc:273] "Unable: CUDA driver version is insufficient for CUDA runtime version"\n'
    'E1122 server.cc:241] "CudaDriverHelper has not been initialized."\n'
    "Error: Failed to initialize NVML\n"
    'W1122 metrics.cc:798] "DCGM unable to start: DCGM initialization error"\n'
    "\n"
)


@pytest.fixture
def server_log(tmp_path: Path) -> Iterator[ServerLog]:
    log = ServerLog(tmp_path / "tritonserver.log")
    yield log
    log.finish()


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (QUIET, None),
        (
            CONFIG_FAILED,
            "model m1 failed to load: failed to read text proto from repo/m1/config.pbtxt (1:86: Unknown value.)",
        ),
        (ENSEMBLE_FAILED, "the model repository failed to load: ensemble e lacks m"),
    ],
)
def test_the_failed_model_is_named_in_one_line(server_log: ServerLog, text: str, failure: str | None) -> None:
    server_log.path.write_text(text)
    assert server_log.load_failure() == failure


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (QUIET, None),
        (
            "E1122 main.cc:245] \"failed to start GRPC service: Unavailable - Socket 'host:81' already in use \"\n",
            "failed to start GRPC service: Unavailable - Socket 'host:81' already in use",
        ),
        ("error: creating server: Internal - failed to stat file /x\n", "failed to stat file /x"),
        (
            "tritonserver: error while loading shared libraries: libx.so: no such file\n",
            "error while loading shared libraries: libx.so: no such file",
        ),
        ("tritonserver: unrecognized option '--x'\n", "unrecognized option '--x'"),
        ("terminate called after throwing an instance of 'A'\n  what():  Device busy\nSignal (6)\n", "Device busy"),
        ("terminate called recursively\n", "terminate called recursively"),
    ],
)
def test_the_reason_of_a_failed_start_is_found(server_log: ServerLog, text: str, failure: str | None) -> None:
    server_log.path.write_text(text)
    assert server_log.server_failure() == failure


def test_models_still_loading_are_those_not_done(server_log: ServerLog) -> None:
    server_log.path.write_text(
        QUIET + '"loading: m1:1"\n' + "I1122 model_lifecycle.cc:839] \"successfully loaded 'm0'\"\n"
    )
    assert server_log.still_loading() == ["m1"]


def test_the_tail_leaves_out_what_means_nothing_without_a_gpu(
    server_log: ServerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_log.path.write_text("first\n+---+\n| m |\n" + NOISE + "second\nthird\n")
    monkeypatch.setattr(log, "has_gpu", lambda: False)
    assert server_log.tail() == "first\nsecond\nthird"
    assert server_log.tail(lines=2) == "second\nthird"
    monkeypatch.setattr(log, "has_gpu", lambda: True)
    assert "NVML" in server_log.tail()


def test_the_log_is_known_after_its_file_is_gone(server_log: ServerLog) -> None:
    server_log.path.write_text(QUIET)
    server_log.finish()
    server_log.path.unlink()
    assert server_log.text() == QUIET
    server_log.finish()


def test_a_server_that_said_nothing_has_an_empty_tail(server_log: ServerLog) -> None:
    assert server_log.tail() == ""


@pytest.mark.parametrize(
    "message", ["\\n\\nInternal: reason\\nmore", "Internal: reason\n\nAt:\n", "reason", "Unavailable - reason\\n"]
)
def test_the_first_line_says_the_reason(message: str) -> None:
    assert first_line(message) == "reason"


def test_whole_lines_are_shown_as_they_come(tmp_path: Path) -> None:
    shown = io.StringIO()
    log = ServerLog(tmp_path / "log", echo=shown)
    with log.path.open("a") as writer:
        writer.write("one\nCudaDriverHelper has not been initialized.\ntw")
        writer.flush()
        while "one" not in shown.getvalue():  # the test's own time limit ends it
            time.sleep(0.01)
        assert "tw" not in shown.getvalue()
        writer.write("o\n")
    log.finish()
    assert [line for line in shown.getvalue().splitlines() if "Cuda" not in line] == ["one", "two"]


def test_a_long_log_is_bounded_and_keeps_its_beginning_and_end(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "log", file_bytes=1000, head_bytes=20, tail_bytes=60)
    with log.path.open("ab", buffering=0) as server:
        server.write(b"the beginning\n")
        for number in range(1000):
            server.write(b"line %04d\n" % number)
            if number % 50 == 0:
                log.text()
            assert log.path.stat().st_size <= 2000
    text = log.text()
    assert text.startswith("the beginning\nline 0\n[")
    assert "\n[9934 bytes of the log left out]\n" in text
    assert text.endswith("".join(f"line {number:04}\n" for number in range(994, 1000)))
    assert len(text) < 200
    log.finish()


def test_notices_are_shown_without_the_log(tmp_path: Path) -> None:
    notices, shown = io.StringIO(), io.StringIO()
    text = b"I0101 a line of the server\nhytrec: a disk is dying\nhytrec is the name\n"
    for number, echo in enumerate((None, shown)):
        log = ServerLog(tmp_path / f"log{number}", echo=echo, notices=notices)
        with log.path.open("ab") as file:
            file.write(text)
        log.finish()
    assert notices.getvalue() == "hytrec: a disk is dying\n"
    assert shown.getvalue() == text.decode()


def test_what_the_http_library_says_of_socket_files_is_left_out_on_every_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "has_gpu", lambda: True)
    noise = "[\x1b[1;33mWARN\x1b[0;39m]  \x1b[33mevhtp.c:4050     \x1b[39mNODELAY NOT SUPPORTED :: (errno: x)"
    assert log.filter_noise(["before", noise, "after"]) == ["before", "after"]
