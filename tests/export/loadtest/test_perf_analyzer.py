from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from hytrec_clients import Credentials
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.options import Load, LoadKind
from hytrec_export.loadtest.perf_analyzer import (
    Running,
    command_line,
    credential_arguments,
    ending_of,
    find_perf_analyzer,
)


def program(folder: Path, code: str = "exit 0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "perf_analyzer"
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


def test_it_is_found_as_given_then_on_the_path_then_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    given, own = program(tmp_path / "given"), program(tmp_path / "project" / ".perf_analyzer")
    assert find_perf_analyzer(given) == given
    assert find_perf_analyzer(None, folders=[tmp_path / "project"]) == own
    on_path = program(tmp_path / "bin")
    assert find_perf_analyzer(None, folders=[tmp_path / "project"]) == on_path


def test_a_missing_one_names_the_command_that_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadTestError, match="perf_analyzer is not installed; run: make perf-analyzer"):
        find_perf_analyzer(None, folders=[tmp_path])
    with pytest.raises(
        LoadTestError, match=r"--perf-analyzer is .*nowhere, which is not executable; run: make perf-analyzer"
    ):
        find_perf_analyzer(tmp_path / "nowhere")


def test_the_command_counts_requests() -> None:
    def command(load: Load) -> list[str]:
        return command_line(
            Path("pa"),
            model="m",
            endpoint="h:1",
            load=load,
            requests=7,
            input_data=Path("in.json"),
            export=Path("out.json"),
        )

    held = command(Load(kind=LoadKind.CONCURRENCY, value=4))
    assert held[:2] == ["pa", "-m"]
    assert {"--concurrency-range=4:4:1", "--request-count=7", "--sync", "--input-data=in.json"} <= set(held)
    rate = command(Load(kind=LoadKind.RATE, value=2.5))
    assert {"--request-rate-range=2.5:2.5:1", "--request-distribution=poisson", "--max-threads=16"} <= set(rate)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (
            "Failed to maintain requested inference load.\nThread [0] had error: in ensemble 'x', times[0] is 9\n\n",
            "perf_analyzer said: in ensemble 'x', times[0] is 9 (exit status 99)",
        ),
        ("Error: bad option\nUsage: lots\n of text", "perf_analyzer said: Error: bad option (exit status 99)"),
        ("some words\n\n", "perf_analyzer said: some words (exit status 99)"),
        ("", "perf_analyzer said: nothing (exit status 99)"),
    ],
)
def test_a_failed_run_is_told_in_its_own_words(text: str, failure: str) -> None:
    assert ending_of(99, text).failure == failure


def test_a_good_run_tells_how_many_requests_were_late() -> None:
    assert ending_of(0, "keep up. 20.00% of the requests were delayed.").delayed == pytest.approx(0.2)
    assert ending_of(0, "fine").failure is None


def test_a_run_that_does_not_end_is_killed(tmp_path: Path) -> None:
    running = Running([str(program(tmp_path, "sleep 60"))], log=tmp_path / "log")
    ending = running.ending(time.monotonic() + 0.1)
    assert ending.failure == "perf_analyzer did not end in time and was killed; raise --timeout, or lower --requests"
    running.kill()  # twice does no harm


def test_what_it_prints_is_kept(tmp_path: Path) -> None:
    running = Running([str(program(tmp_path, "echo error: no such model >&2; exit 3"))], log=tmp_path / "log")
    ending = running.ending(time.monotonic() + 30)
    assert ending.failure == "perf_analyzer said: error: no such model (exit status 3)"


def test_tls_and_token_are_arguments() -> None:
    assert credential_arguments(Credentials(), None) == []
    assert credential_arguments(Credentials(tls=True), None) == ["--ssl-grpc-use-ssl"]
    files = Credentials(tls_ca=Path("/c/ca"), tls_cert=Path("/c/cert"), tls_key=Path("/c/key"))
    assert credential_arguments(files, "t") == [
        "--ssl-grpc-use-ssl",
        "--ssl-grpc-root-certifications-file=/c/ca",
        "--ssl-grpc-private-key-file=/c/key",
        "--ssl-grpc-certificate-chain-file=/c/cert",
        "-H",
        "triton-grpc-protocol-hytrec-token:t",
    ]


def test_a_token_leaves_the_command_line_once_it_is_read(tmp_path: Path) -> None:
    token = "0123456789abcdef"  # noqa: S105 - of this test
    code = "import sys, time; print('read', flush=True); time.sleep(60)"
    running = Running([sys.executable, "-c", code, f"header:{token}"], log=tmp_path / "log", secret=token)
    line = Path(f"/proc/{running._process.pid}/cmdline")
    while b"header:" + b"x" * len(token) not in line.read_bytes():  # the test's own time limit ends it
        time.sleep(0.01)
    assert token.encode() not in line.read_bytes()
    running.kill()
