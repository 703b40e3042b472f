"""`python -m hytrec_export.server.container REPOSITORY [ARGUMENT...]`: become the tritonserver of a container.

A fixed command line cannot do it: the key of the restricted APIs is made anew for each start, and the manifest says
whether the engines bring their own TensorRT runtime.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from hytrec.program import run_program
from hytrec_export.errors import ServerError
from hytrec_export.repository.manifest import Manifest
from hytrec_export.server.arguments import new_admin_key, shared_arguments
from hytrec_export.server.options import ServerOptions

EXIT_TIMEOUT_S = 30
VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
"""Lets the tensorrt backend run the runtime that an engine of `build --version-compatible` holds; without it the
backend refuses such an engine."""


def container_arguments(repository: Path) -> Iterator[str]:
    """Arguments of tritonserver for a repository.

    Raises:
        RepositoryError: the repository or its manifest is missing or damaged.
    """
    manifest = Manifest.load(repository)
    yield f"--model-repository={repository}"
    yield f"--exit-timeout-secs={EXIT_TIMEOUT_S}"
    yield from shared_arguments(admin_key=new_admin_key(), shm_bytes=ServerOptions.shm_bytes)
    if any(engine.get("version_compatible") for engine in (manifest.engines or {}).values()):
        yield VERSION_COMPATIBLE


def main() -> None:
    """Replace this process by tritonserver; further arguments are handed on."""
    repository, *further = sys.argv[1:]
    program = shutil.which("tritonserver")
    if program is None:
        raise ServerError("tritonserver is not on PATH; run this in NVIDIA's Triton image (deploy/Dockerfile)")
    os.execv(program, [program, *container_arguments(Path(repository)), *further])  # noqa: S606


if __name__ == "__main__":
    run_program(main, extras={})
