import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hytrec_export import parent_death as die_with_parent

SCRIPT = str(die_with_parent.__file__)
SLEEPER = "import os, time; print(os.getpid(), os.environ.get('HYTREC_SERVER_PID'), flush=True); time.sleep(600)"
# The parent starts the bound program from its main thread, and says the program's first line.
PARENT = f"""
import os, subprocess, sys
command = [sys.executable, {SCRIPT!r}, str(os.getpid()), sys.executable, "-c", sys.argv[1]]
child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), end="", flush=True)
child.wait()
"""
# A grandchild forked by a thread that ends, as tritonserver's loading threads do: it watches its parent.
WATCHED = """
import os, sys, threading, time
from hytrec_export import parent_death as die_with_parent
die_with_parent.in_stub = lambda: True
os.environ.pop("HYTREC_SERVER_PID", None)

def fork():
    if os.fork() == 0:
        die_with_parent.die_with_parent()
        print(os.getpid(), flush=True)
        time.sleep(600)
        os._exit(0)
    time.sleep(0.2)

thread = threading.Thread(target=fork)
thread.start()
thread.join()
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # the test's own time limit ends it
        time.sleep(0.01)


def test_a_bound_program_dies_with_the_process_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, SLEEPER], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, server_pid = map(int, parent.stdout.readline().split())
        assert server_pid == pid
        assert is_alive(pid)
        parent.kill()
    wait_until(lambda: not is_alive(pid))


def test_a_program_whose_parent_is_gone_already_does_not_start() -> None:
    not_its_parent = os.getppid()
    done = subprocess.run(
        [sys.executable, SCRIPT, str(not_its_parent), sys.executable, "-c", "print('started')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""


@pytest.mark.parametrize("sandboxed", [False, True])
def test_a_child_outlives_the_thread_that_forked_it_but_not_the_process(sandboxed: bool) -> None:
    code = WATCHED
    if sandboxed:  # neither a pidfd nor the kernel's list of children
        code = code.replace("os.environ.pop", "die_with_parent._pidfd = lambda _: None\nos.environ.pop").replace(
            "os.environ.pop", "die_with_parent._child_of_main_thread = lambda _: False\nos.environ.pop", 1
        )
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: len(list(Path(f"/proc/{parent.pid}/task").iterdir())) == 1)
        time.sleep(0.1)
        assert is_alive(pid)
        parent.kill()
        parent.stdout.close()
    wait_until(lambda: not is_alive(pid))


def test_a_stub_whose_server_died_before_it_asked_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[bool] = []
    monkeypatch.setattr(die_with_parent, "in_stub", lambda: True)
    monkeypatch.setattr(die_with_parent, "_started", threading.Lock())
    monkeypatch.setattr(die_with_parent, "_die", lambda: deaths.append(True))
    monkeypatch.setattr(die_with_parent, "_watch", lambda _: None)
    monkeypatch.setenv(die_with_parent.SERVER_PID_VARIABLE, str(os.getpid()))
    die_with_parent.die_with_parent()
    assert deaths == [True]
    die_with_parent.die_with_parent()
    assert deaths == [True]


def test_outside_of_a_stub_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Thread", lambda **_: pytest.fail("a watcher was started"))
    die_with_parent.die_with_parent()
