"""Secrets in the command line of a child process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hytrec_export.secret_arguments import hide_arguments

SECRET = "0123456789abcdef"  # noqa: S105 - of this test
PROGRAM = "import sys; print(sys.argv[1], flush=True); sys.stdin.read(); print(sys.argv[1])"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, f"--key=name={SECRET}", "other"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def shown(process: subprocess.Popen[str]) -> list[str]:
    return Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")


def test_a_secret_is_overwritten_and_the_process_keeps_what_it_has_read(child: subprocess.Popen[str]) -> None:
    before = shown(child)
    assert f"--key=name={SECRET}" in before
    assert hide_arguments(child.pid, [SECRET, ""])
    assert shown(child) == [argument.replace(SECRET, "x" * len(SECRET)) for argument in before]
    assert child.communicate("")[0] == f"--key=name={SECRET}\n"


def test_a_process_that_has_ended_is_not_hidden(child: subprocess.Popen[str]) -> None:
    child.communicate("")
    assert not hide_arguments(child.pid, [SECRET])
