"""Takes secrets out of the command line of a process that has read them; `ps` shows it to every user of the machine.

tritonserver and perf_analyzer take keys from nowhere else. A process of the same user may write the memory of its child
(/proc/PID/mem), and the kernel reads a command line from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_ARGUMENTS_START, _ARGUMENTS_END = 45, 46
"""Fields of /proc/PID/stat, counted after the program's name."""


def hide_arguments(pid: int, secrets: Iterable[str]) -> bool:
    """Overwrite secrets in the command line of a child of this process, which must have parsed it already.

    Returns:
        Whether none of them stands there any more; False too where the kernel does not allow it.
    """
    wanted = [secret.encode() for secret in secrets if secret]
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARGUMENTS_START]), int(fields[_ARGUMENTS_END])
        if not 0 < start < end:
            return False
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            text = memory.read(end - start)
            hidden = text
            for secret in wanted:
                hidden = hidden.replace(secret, b"x" * len(secret))
            if hidden != text:
                memory.seek(start)
                memory.write(hidden)
        shown = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, IndexError, ValueError):
        return False
    return not any(secret in shown for secret in wanted)
