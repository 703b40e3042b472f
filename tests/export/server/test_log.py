import io
from pathlib import Path

import pytest

from hytrec_export.server import log
from hytrec_export.server.log import LogFollower, ServerLog, first_line

QUIET = 'I1122 08:20:34.9 1 model_lifecycle.cc:472] "loading: m0:1"\n'
MODEL_FAILED = (
    QUIET
    + 'I1122 08:20:34.9 1 model_lifecycle.cc:472] "loading: m2:1"\n'
    + 'E1122 08:20:34.9 1 backend_model.cc:692] "ERROR: Failed to create instance: ValueError: no table\\n\\nAt:\\n"\n'
    + "E1122 08:20:34.9 1 model_lifecycle.cc:642] \"failed to load 'm2' version 1: Internal: ValueError: no "
    + '\\"table\\"; build again\\n\\nAt:\\n  /repo/m2/1/model.py(4): initialize\\n"\n'
    + "error: creating server: Internal - failed to load all models\n"
)
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
def server_log(tmp_path: Path) -> ServerLog:
    return ServerLog(tmp_path / "tritonserver.log")


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (QUIET, None),
        (MODEL_FAILED, 'model m2 failed to load: ValueError: no "table"; build again'),
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
    assert server_log.text() == QUIET
    server_log.path.unlink()
    assert server_log.text() == QUIET


def test_a_missing_log_is_empty(server_log: ServerLog) -> None:
    assert server_log.tail() == ""


@pytest.mark.parametrize("message", ["\\n\\nInternal: reason\\nmore", "reason", "Unavailable - reason\\n"])
def test_the_first_line_says_the_reason(message: str) -> None:
    assert first_line(message) == "reason"


def test_a_follower_copies_whole_lines_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "log"
    copied = io.StringIO()
    with path.open("w") as writer:
        follower = LogFollower(path, copied)
        follower.start()
        writer.write("one\nCudaDriverHelper has not been initialized.\ntw")
        writer.flush()
        writer.write("o\n")
    follower.finish()
    assert [line for line in copied.getvalue().splitlines() if "Cuda" not in line] == ["one", "two"]


def test_of_a_long_log_the_end_is_read(server_log: ServerLog) -> None:
    server_log.path.write_text("first\n" + "x" * (1 << 20) + "\nlast\n")
    assert server_log.tail(lines=1) == "last"
    assert "first" not in server_log.text()
