"""The python models of a running server: each is a process of its own, and tritonserver does not notice its end.

Nothing replaces one that ended (killed for want of memory, say), requests to it wait for ever, and the server goes on
saying that it is ready (Triton 2.51; triton-inference-server/server#8604).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hytrec_export.optional import require
from hytrec_export.parent_death import STUB_PROGRAM

_MODEL_FILE = "model.py"


def python_models(server: int) -> dict[int, str]:
    """Process id and model name of every python model that process `server` started."""
    psutil: Any = require("psutil", extra="embedded")
    try:
        children = psutil.Process(server).children()
    except psutil.NoSuchProcess:
        return {}
    found = {}
    for process in children:
        try:
            name = _model_name(process.cmdline())
        except psutil.Error:
            continue
        if name is not None:
            found[int(process.pid)] = name
    return found


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or is there in name only until its parent asks for its exit status."""
    psutil: Any = require("psutil", extra="embedded")
    try:
        return psutil.Process(pid).status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return True


def _model_name(command: list[str]) -> str | None:
    """Name of the model folder among the arguments of a stub; None for any other program."""
    if not command or Path(command[0]).name != STUB_PROGRAM:
        return None
    files = [Path(argument) for argument in command[1:] if Path(argument).name == _MODEL_FILE]
    return files[0].parents[1].name if files else None
