"""A build that is stopped at a chosen moment; run by test_pipeline.py.

    killed_build.py RUN BUILT OUTPUT HOW

What only reads is done once, graphs are copied from BUILT and parity is taken as good, so that a build is short;
everything that writes is the real thing. HOW is "kill" (SIGKILL), "interrupt" (KeyboardInterrupt) or "full" (no space
left, from there on). For every moment at which the build writes beside or into OUTPUT, a child is forked that is
stopped there, then one that is not. Prints one JSON line a child: what became of it, and what it left.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hytrec.run_folder import load_run
from hytrec_export import pipeline
from hytrec_export.errors import BuildError
from hytrec_export.options import BuildOptions
from hytrec_export.progress import silent
from hytrec_export.repository import manifest
from hytrec_export.repository.manifest import Manifest, git_revision, versions
from hytrec_export.verification.findings import all_ok
from hytrec_export.verification.parity.comparator import ParityReport
from hytrec_export.verification.parity.gate import ParityResult
from hytrec_export.verification.parity.golden import FILE_NAME, load
from hytrec_export.verification.repository import verify_files

MOMENTS = {"open", "os.mkdir", "os.rename", "os.chmod", "os.link", "shutil.copyfile"}
CLEARING = {"os.remove", "os.rmdir"}
"""What is stopped here by nothing but a kill: a full disk lets files go, and a second Ctrl-C is not ours to mend."""
DONE, INTERRUPTED, TOLD, NOT_NOTICED = 0, 2, 3, 4
"""Exit codes of a child."""


def copied_graphs(built: Path) -> Callable[..., dict[str, Path]]:
    def export_graphs(_model: object, folder: Path, **_: object) -> dict[str, Path]:
        graphs = {path.parent.parent.name: path for path in built.glob("*/1/model.onnx")}
        return {name: Path(shutil.copyfile(path, folder / f"{name}.onnx")) for name, path in graphs.items()}

    return export_graphs


def stop(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "interrupt":
        raise KeyboardInterrupt
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


class Stopper:
    """Stops the build at one of the moments at which it writes to the output's parent folder."""

    def __init__(self, moment: int, how: str, parent: Path) -> None:
        self._left = moment
        self._how = how
        self._moments = MOMENTS | CLEARING if how == "kill" else MOMENTS
        self._parent = str(parent)

    @property
    def stopped(self) -> bool:
        return self._left <= 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in self._moments and self._writes(event, arguments):
            self._left -= 1
            if self._left == 0 or (self._left < 0 and self._how == "full"):
                stop(self._how)

    def _writes(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return False
        return any(self._parent in os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | Path))


def child(options: BuildOptions, moment: int, how: str) -> int:
    stopper = Stopper(moment, how, options.output.parent)
    sys.addaudithook(stopper)
    try:
        pipeline.build(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BuildError as error:
        return TOLD if "\n" not in str(error) else 1
    return NOT_NOTICED if stopper.stopped else DONE


def main(run: Path, built: Path, output: Path, how: str) -> None:
    gate = ParityResult(
        golden=load(built / FILE_NAME), report=ParityReport(largest={}, cases={}, lists=0, lists_in_order=0)
    )
    loaded, found, revision = load_run(run), versions(), git_revision()
    vars(manifest).update(versions=lambda: found, git_revision=lambda: revision)
    vars(pipeline).update(
        load_run=lambda _: loaded, export_graphs=copied_graphs(built), check_parity=lambda *_, **__: gate
    )
    options = BuildOptions(run=run, output=output)
    for moment in range(1, 10_000):
        process = os.fork()
        if not process:
            os._exit(child(options, moment, how))
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        findings = verify_files(output, Manifest.load(output), silent)
        beside = [path.name for path in output.parent.iterdir() if path != output]
        whole = all_ok(findings)
        told = {"status": status, "whole": whole, "beside": beside, "built_at": Manifest.load(output).built_at}
        sys.stdout.write(json.dumps(told) + "\n")
        if status == DONE:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
