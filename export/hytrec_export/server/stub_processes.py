"""The python models of a running server: each is a process of its own, and tritonserver does not notice its end.

Nothing replaces one that ended (killed for want of memory, say), calls to it wait for ever, and the server goes on
saying that it is ready (Triton 2.51; triton-inference-server/server#8604).
"""

from __future__ import annotations

from pathlib import Path

from hytrec_export.parent_death import STUB_PROGRAM

_PROC = Path("/proc")
_MODEL_FILE = "model.py"
_ENDED = frozenset("ZX")


def python_models(server: int) -> dict[int, str]:
    """Process id and model name of every python model that process `server` started."""
    found = {}
    for process in _PROC.glob("[0-9]*"):
        if _parent_and_state(process)[0] == server and (name := _model_name(process)):
            found[int(process.name)] = name
    return found


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or is there in name only until its parent asks for its exit status."""
    return _parent_and_state(_PROC / str(pid))[1] in _ENDED


def _parent_and_state(process: Path) -> tuple[int, str]:
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, "X"
    return int(fields[1]), fields[0]


def _model_name(process: Path) -> str | None:
    """Name of the model folder among the arguments of a stub; None for any other program."""
    try:
        program, *arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if Path(program).name != STUB_PROGRAM:
        return None
    files = [Path(argument) for argument in arguments if Path(argument).name == _MODEL_FILE]
    return files[0].parents[1].name if files else None
