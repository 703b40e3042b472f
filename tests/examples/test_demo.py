"""How the demo ends when it is stopped; its steps are stand-ins."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import demo
from hytrec.cli import train
from movielens import read_titles

EXAMPLES = Path(demo.__file__).parent
# A line of a script's interpreter takes no blank in its path, so the shell starts it, as pip's scripts do.
# Says its process id, and ends with one line after an interrupt, as the project's programs do.
PROGRAM = f"""#!/bin/sh
'''exec' "{sys.executable}" "$0" "$@"
' '''
import os, signal, sys

def stop(*_):
    sys.stderr.write("error: interrupted; the program's own message\\n")
    os._exit(130)

signal.signal(signal.SIGINT, stop)
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""


def interrupted(tmp_path: Path, steps: str, *, by: signal.Signals = signal.SIGINT) -> tuple[int, str, int]:
    """Exit code and stderr of a demo that is stopped in mid-step, and the process id of the step."""
    program = tmp_path / "hytrec-export"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    code = f"import demo, pathlib, time\ndemo.PROGRAMS = pathlib.Path({str(tmp_path)!r})\n{steps}\ndemo.run(steps)"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=EXAMPLES, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not (line := process.stdout.readline().strip()).isdigit():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(by)
        _, error = process.communicate()
    return process.returncode, error, int(line)


def test_an_interrupted_command_ends_the_demo_with_the_commands_message(tmp_path: Path) -> None:
    code, error, pid = interrupted(tmp_path, "def steps(): demo.command('hytrec-export', 'build')")
    assert (code, error) == (130, "error: interrupted; the program's own message\n")
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_demo_stops_its_server(tmp_path: Path, by: signal.Signals) -> None:
    code, error, pid = interrupted(tmp_path, "def steps():\n    with demo.server(): time.sleep(600)", by=by)
    assert code == 130
    assert error.splitlines() == [
        "error: interrupted; the program's own message",
        "error: interrupted; run `make demo` again to continue",
    ]
    assert not Path(f"/proc/{pid}").exists()


def test_a_known_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def steps() -> None:
        read_titles(EXAMPLES / "none")

    with pytest.raises(SystemExit, match=r"^error: .*ml-100k\.item holds no movie titles"):
        demo.run(steps)


def test_the_demo_trains_with_options_that_exist() -> None:
    names = {option.partition("=")[0].removeprefix("--").replace("-", "_") for option in demo.TRAINING}
    assert names <= set(inspect.signature(train).parameters)
