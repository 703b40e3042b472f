"""What a server and its python models use of the machine, from /proc."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hytrec_export.server.python_models import python_models

_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Use:
    """Sums over the processes.

    Args:
        anonymous_bytes: memory that no file stands behind; a store's mapped file is none of it.
        files: open file descriptors.
    """

    anonymous_bytes: int
    threads: int
    files: int


def use_of_server(pid: int) -> Use:
    """Of tritonserver, by its process id, and of its python models."""
    processes = [_PROC / str(own) for own in (pid, *python_models(pid))]
    facts = [_facts(process) for process in processes]
    return Use(
        anonymous_bytes=1024 * sum(int(own.get("RssAnon", "0").split()[0]) for own in facts),
        threads=sum(int(own.get("Threads", "0")) for own in facts),
        files=sum(_open_files(process) for process in processes),
    )


def _facts(process: Path) -> dict[str, str]:
    facts: dict[str, str] = {}
    with suppress(OSError):  # it ended meanwhile
        for line in (process / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            facts[name] = value.strip()
    return facts


def _open_files(process: Path) -> int:
    with suppress(OSError):
        return sum(1 for _ in (process / "fd").iterdir())
    return 0
