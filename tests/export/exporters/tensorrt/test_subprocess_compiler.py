from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt import subprocess_compiler as worker
from hytrec_export.exporters.tensorrt.monitor import PARTS
from hytrec_export.exporters.tensorrt.subprocess_compiler import compile_in_subprocess
from hytrec_export.progress import ignore

DIES = """
import os, signal, sys
from multiprocessing.connection import Connection
with Connection(int(sys.argv[1])) as connection:
    connection.recv()
    {}
"""


def test_the_record_and_the_progress_come_back(toy: Any, toy_job: Any) -> None:
    told: list[int] = []
    job = toy_job(toy.write(("Relu", ["x"], "y")))
    record = compile_in_subprocess(job, advance=told.append)
    assert record.path == job.engine
    assert record.size_bytes == job.engine.stat().st_size
    assert sum(told) == PARTS


def test_an_error_comes_back_as_it_was(toy: Any, toy_job: Any) -> None:
    job = toy_job(toy.write(("NoSuchOperator", ["x"], "y"), domain="com.microsoft"))
    with pytest.raises(BuildError, match=r"cannot parse toy\.onnx") as caught:
        compile_in_subprocess(job, advance=ignore)
    assert "in the compiler's process:" in caught.value.__notes__[0]


def test_a_full_disk_comes_back_with_its_number_and_path(toy: Any, toy_job: Any) -> None:
    job = toy_job(toy.write(("Relu", ["x"], "y")), engine=toy.folder / "missing" / "toy.plan")
    with pytest.raises(FileNotFoundError) as caught:
        compile_in_subprocess(job, advance=ignore)
    assert Path(caught.value.filename) == job.engine


@pytest.mark.parametrize(
    ("end", "how"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "signal 9"), ("os._exit(3)", "exit status 3")],
)
def test_a_compiler_that_dies_is_an_error(
    toy: Any, toy_job: Any, monkeypatch: pytest.MonkeyPatch, end: str, how: str
) -> None:
    monkeypatch.setattr(worker, "PROGRAM", DIES.format(end))
    message = (
        f"^the compiler of toy.onnx died of {how}; look at its output above and at the free memory, then build again "
        "with smaller --max-batch or --max-events$"
    )
    with pytest.raises(BuildError, match=message):
        compile_in_subprocess(toy_job(toy.write(("Relu", ["x"], "y"))), advance=ignore)


def test_an_interrupted_compiler_is_gone(toy: Any, toy_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process sleeps for an hour in the middle of a step, deaf to Ctrl-C."""
    monkeypatch.setattr(worker, "PROGRAM", DIES.format("connection.send(os.getpid()); signal.pause()"))
    children: list[int] = []

    def interrupt(child: int) -> None:
        children.append(child)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_in_subprocess(toy_job(toy.write(("Relu", ["x"], "y"))), advance=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], signal.SIG_DFL)
