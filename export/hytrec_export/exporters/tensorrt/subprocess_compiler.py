"""Compiles in a subprocess: Ctrl-C ends it at once, and a crash of the compiler is only an error.

TensorRT cannot be interrupted inside a step, and a step may take minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.compiler import CompileJob, compile_engine
from hytrec_export.exporters.tensorrt.package import find_tensorrt
from hytrec_export.exporters.tensorrt.record import EngineRecord
from hytrec_export.parent_death import set_parent_death_signal
from hytrec_export.progress import Advance

PROGRAM = f"from {__name__} import main; main()"


def compile_in_subprocess(job: CompileJob, *, advance: Advance) -> EngineRecord:
    """`compile_engine` in another process, which is gone when this returns or raises.

    Raises:
        BuildError: as `compile_engine`, or the process died.
    """
    here, there = Pipe()
    with here, there:
        command = [sys.executable, "-P", "-c", PROGRAM, str(there.fileno()), str(os.getpid())]
        process = subprocess.Popen(command, pass_fds=[there.fileno()], start_new_session=True)
        try:
            there.close()
            here.send(job)
            return _await(here, advance)
        except (EOFError, ConnectionError) as error:
            status = process.wait()
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise BuildError(
                f"the compiler of {job.graph.name} died of {how}; look at its output above and at the free memory, "
                "then build again with smaller --max-batch or --max-events"
            ) from error
        finally:
            process.kill()
            process.wait()


def _await(connection: Connection, advance: Advance) -> EngineRecord:
    while True:
        message = connection.recv()
        if isinstance(message, EngineRecord):
            return message
        if isinstance(message, BaseException):
            raise message
        advance(message)


def main() -> None:
    """Receive a job, send progress, then a record or an error."""
    descriptor, parent = map(int, sys.argv[1:])
    set_parent_death_signal()
    if os.getppid() != parent:
        return
    with Connection(descriptor) as connection:
        job: CompileJob = connection.recv()
        try:
            result: object = compile_engine(find_tensorrt(job.target), job, advance=connection.send)
        except Exception as error:  # noqa: BLE001 - raised again by who waits for it
            error.add_note(f"in the compiler's process:\n{traceback.format_exc()}")
            result = error
        connection.send(result)
