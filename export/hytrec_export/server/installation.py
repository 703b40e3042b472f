"""Where the pip-installed tritonserver is, and the backend folder made from its parts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from hytrec_export.errors import MissingPackageError, ServerError
from hytrec_export.server.plain_paths import ascii_environment

_PACKAGE = "pytriton"
_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
_MIB = 2**20
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * _MIB),
    "MALLOC_TOP_PAD_": str(16 * _MIB),
    "MALLOC_TRIM_THRESHOLD_": str(256 * _MIB),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Every step of a request allocates its user's state anew (200 KB). By default glibc gives so much back to the kernel
when it is freed, and the next request pays for the pages again: a fifth of the throughput of appends. What stays asks
for huge pages (glibc 2.35; kernels that give them to all or to nobody do as before): 2% of the throughput."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Parts of a tritonserver that can run python models of this interpreter.

    Args:
        program: the tritonserver binary.
        libraries: folder of the shared libraries that came with it.
        python_backend: folder of the python backend, without a stub.
        stub: the python backend's stub for the running Python version.
        libpython: shared library of the running Python version; the stub embeds it.
    """

    program: Path
    libraries: Path
    python_backend: Path
    stub: Path
    libpython: Path

    @classmethod
    def find(cls) -> Installation:
        """Find tritonserver in the nvidia-pytriton wheel.

        Raises:
            MissingPackageError: nvidia-pytriton is not installed.
            ServerError: no stub or no shared library for the running Python version, or no bash.
        """
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise MissingPackageError("nvidia-pytriton is not installed; run: pip install 'hytrec-export[embedded]'")
        package = Path(spec.submodule_search_locations[0])
        root = package / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stubs = root / "python_backend_stubs"
        stub = stubs / version / "triton_python_backend_stub"
        if not stub.is_file():
            known = ", ".join(sorted((folder.name for folder in stubs.glob("*")), key=_version_key)) or "none"
            raise ServerError(
                f"nvidia-pytriton has no python backend for Python {version} (it has {known}); "
                "use one of these Python versions"
            )
        if shutil.which("bash") is None:
            raise ServerError("tritonserver starts python models with bash, which is not on PATH; install bash")
        return cls(
            program=root / "bin" / "tritonserver",
            libraries=package.parent / "nvidia_pytriton.libs",
            python_backend=root / "backends" / "python",
            stub=stub,
            libpython=find_libpython(version),
        )

    def link(self, folder: Path) -> Path:
        """Make a backend directory in `folder`: the python backend, and this interpreter's stub beside it."""
        backend = folder / "backends" / "python"
        backend.mkdir(parents=True)
        for part in self.python_backend.iterdir():
            (backend / part.name).symlink_to(part)
        (backend / self.stub.name).symlink_to(self.stub)
        libraries = folder / "lib"
        libraries.mkdir()
        (libraries / soname(_this_version())).symlink_to(self.libpython)
        return backend.parent

    def environment(self, folder: Path) -> dict[str, str]:
        """This process's variables, changed so that the server finds its libraries and the stub this interpreter.

        Freed memory stays with the server's processes, in huge pages; a variable of `MALLOC` that this process has is
        kept as it is.
        """
        libraries = [str(folder / "lib"), str(self.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
        programs = [str(ascii_environment(folder)), os.environ.get("PATH", os.defpath)]
        return (
            MALLOC
            | os.environ
            | {
                "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
                "PATH": os.pathsep.join(programs),
            }
        )


def _this_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def soname(version: str) -> str:
    """File name by which the stub asks for its Python."""
    return f"libpython{version}.so.1.0"


def find_libpython(version: str) -> Path:
    """Shared library of the running interpreter, or of its version where the interpreter is a static build.

    Raises:
        ServerError: it is not there; the message names the package that brings it.
    """
    folders = (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", *_LIBRARY_FOLDERS)
    for folder in dict.fromkeys(filter(None, folders)):
        library = Path(folder) / soname(version)
        if library.is_file():
            return library
    raise ServerError(
        f"{soname(version)} is not installed, and Triton's python models need it; "
        f"run: apt-get install libpython{version} (or use a Python built with --enable-shared)"
    )
