"""No orphans: processes that the kernel kills when their parent dies, even of kill -9.

A Triton python model runs in a stub process of its own. When the server is killed, a stub in mid-execute was seen to
outlive it by minutes and to commit late. Every python model therefore calls `die_with_parent` in `initialize`.

The kernel's parent-death signal fires when the *thread* that forked the child ends, and tritonserver forks a stub from
a loading thread that ends as soon as the model is loaded (seen on 2.51). The signal is therefore set only once the
kernel has handed the stub over to the server's main thread; until then, and where the kernel does not list children, a
thread watches the parent. The signal alone also kills a stub that holds the interpreter's lock.

Run as a script it becomes another program that dies with the process that ran it:

    python parent_death.py PARENT_PID PROGRAM ARGUMENT...
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from pathlib import Path

SERVER_PID_VARIABLE = "HYTREC_SERVER_PID"
"""Set for tritonserver, so that a stub whose server died before it could ask knows it."""

STUB_PROGRAM = "triton_python_backend_stub"
"""The process in which Triton's python backend runs one instance of a model."""

_PR_SET_PDEATHSIG = 1
_FIRST_POLL_MS = 5
_LAST_POLL_MS = 200
_started = threading.Lock()


def die_with_parent() -> None:
    """Have this python model die at once when tritonserver does; returns immediately, once a process is enough.

    Outside of a python backend stub (a unit test, a notebook) it does nothing.
    """
    if not in_stub() or not _started.acquire(blocking=False):
        return
    parent = int(os.environ.get(SERVER_PID_VARIABLE) or os.getppid())
    if os.getppid() != parent:
        _die()
    threading.Thread(target=_watch, args=(parent,), name="die-with-parent", daemon=True).start()


def in_stub() -> bool:
    """Whether this process runs an instance of a Triton python model."""
    return Path("/proc/self/exe").resolve().name == STUB_PROGRAM


def _watch(parent: int) -> None:
    """Wait for the parent's end, and set the kernel's signal as soon as it means the process and not a thread.

    The signal belongs to the thread that asked for it, so this one never returns.
    """
    pidfd = _pidfd(parent)
    signal_set = False
    poll_ms = _FIRST_POLL_MS
    while not _ended(parent, pidfd, poll_ms):
        if not signal_set and _child_of_main_thread(parent):
            set_parent_death_signal()
            signal_set = True
        poll_ms = -1 if signal_set and pidfd is not None else min(2 * poll_ms, _LAST_POLL_MS)
    _die()


def _pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when `pid` ends; None where the kernel or a sandbox refuses it."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _ended(parent: int, pidfd: int | None, wait_ms: int) -> bool:
    """Whether the parent has ended, after waiting up to `wait_ms` (-1: until it has)."""
    poll = select.poll()
    if pidfd is not None:
        poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(wait_ms)) or os.getppid() != parent


def _child_of_main_thread(parent: int) -> bool:
    """Whether the kernel counts this process among the children of its parent's main thread."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    except OSError:
        return False
    return str(os.getpid()) in children.split()


def set_parent_death_signal() -> None:
    """Ask for SIGKILL at the end of the thread that is this process's parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Become PROGRAM, bound to the life of PARENT_PID's calling thread."""
    parent, *command = sys.argv[1:]
    set_parent_death_signal()
    if os.getppid() != int(parent):
        _die()
    os.environ[SERVER_PID_VARIABLE] = str(os.getpid())
    os.execv(command[0], command)  # noqa: S606 - the program is our own caller's


if __name__ == "__main__":
    main()
