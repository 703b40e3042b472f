"""`python -m hytrec_export.server.container REPOSITORY [ARGUMENT...]`: become the tritonserver of a container.

A fixed command line cannot do it: the key of the restricted APIs is made anew for each start, the token is in a file,
and the manifest says whether the engines bring their own TensorRT runtime.

A container listens on all of its addresses, so TLS and a token are asked for: the variables HYTREC_SERVER_TLS_CERT,
HYTREC_SERVER_TLS_KEY, HYTREC_SERVER_TLS_CLIENT_CA and HYTREC_SERVER_TOKEN_FILE name the files of `AccessOptions`, and
HYTREC_SERVER_INSECURE=1 does without. HTTP is there for the health check alone, as a socket file.

HYTREC_METRICS_ADDRESS says where the metrics are if an argument moves them: the models see in them how many requests
wait.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from hytrec.program import run_program
from hytrec_export.errors import OptionError, ServerError
from hytrec_export.repository.manifest import Manifest
from hytrec_export.server.access import AccessOptions
from hytrec_export.server.arguments import new_key, shared_arguments
from hytrec_export.server.options import ServerOptions
from hytrec_export.server.process import PRIVATE_UMASK
from hytrec_export.settings import CALL_KEY_VARIABLE, METRICS_ADDRESS_VARIABLE

EXIT_TIMEOUT_S = 30
INSECURE = "HYTREC_SERVER_INSECURE"
HTTP_SOCKET = Path(tempfile.gettempdir(), f"hytrec-container-{os.geteuid()}", "http.sock")
"""In a folder that is this user's alone."""
_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - of the container; what is published is the one's who runs it
METRICS_ADDRESS = "http://127.0.0.1:8002"
"""Where tritonserver's metrics are, unless an argument says otherwise."""
VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
"""Lets the tensorrt backend run the runtime that an engine of `build --version-compatible` holds; without it the
backend refuses such an engine."""


def access_of(environment: Mapping[str, str]) -> AccessOptions:
    """What the environment names.

    Raises:
        OptionError: a file is named without another that it needs, or the last variable is neither 1 nor 0.
    """
    names = ("tls_cert", "tls_key", "tls_client_ca", "token_file")
    files = {name: Path(text) for name in names if (text := environment.get(f"HYTREC_SERVER_{name.upper()}"))}
    insecure = environment.get(INSECURE) or "0"
    if insecure not in {"0", "1"}:
        raise OptionError(f"{INSECURE} is {insecure!r}; it must be 1 or 0")
    return AccessOptions(insecure=insecure == "1", **files)


def container_arguments(repository: Path, access: AccessOptions) -> Iterator[str]:
    """Arguments of tritonserver for a repository.

    Raises:
        RepositoryError: the repository or its manifest is missing or damaged.
        ServerError: there is neither TLS with a token nor `insecure`, or a file of `access` cannot be used.
    """
    access.check(_EVERY_ADDRESS, address=_EVERY_ADDRESS)
    manifest = Manifest.load(repository)
    yield f"--model-repository={repository}"
    yield f"--exit-timeout-secs={EXIT_TIMEOUT_S}"
    yield f"--http-address=unix:{HTTP_SOCKET}"
    yield f"--metrics-address={_EVERY_ADDRESS}"
    yield from access.grpc_arguments()
    yield from shared_arguments(
        admin_key=new_key(), shm_bytes=ServerOptions.shm_bytes, token=access.token(), http_token=False
    )
    if any(engine.get("version_compatible") for engine in (manifest.engines or {}).values()):
        yield VERSION_COMPATIBLE


def main() -> None:
    """Replace this process by tritonserver; further arguments are handed on."""
    repository, *further = sys.argv[1:]
    program = shutil.which("tritonserver")
    if program is None:
        raise ServerError("tritonserver is not on PATH; run this in NVIDIA's Triton image (deploy/Dockerfile)")
    arguments = [*container_arguments(Path(repository), access_of(os.environ)), *further]
    HTTP_SOCKET.parent.mkdir(mode=0o700, exist_ok=True)
    HTTP_SOCKET.unlink(missing_ok=True)
    os.umask(PRIVATE_UMASK)
    os.environ[CALL_KEY_VARIABLE] = new_key()
    os.environ.setdefault(METRICS_ADDRESS_VARIABLE, METRICS_ADDRESS)
    os.execv(program, [program, *arguments])  # noqa: S606


if __name__ == "__main__":
    run_program(main, extras={})
