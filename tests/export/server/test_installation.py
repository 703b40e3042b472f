import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest

from hytrec_export.errors import MissingPackageError, ServerError
from hytrec_export.server import installation
from hytrec_export.server.installation import MALLOC, Installation, find_libpython
from hytrec_export.server.plain_paths import ascii_environment

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretended nvidia-pytriton with stubs of Python 3.9 and of the running version."""
    package = tmp_path / "site-packages" / "pytriton"
    for stub in ("3.9", VERSION):
        folder = package / "tritonserver" / "python_backend_stubs" / stub
        folder.mkdir(parents=True)
        (folder / "triton_python_backend_stub").touch()
    backend = package / "tritonserver" / "backends" / "python"
    backend.mkdir(parents=True)
    (backend / "libtriton_python.so").touch()
    spec = ModuleSpec("pytriton", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "pytriton" else None)
    return package


@pytest.fixture
def libpython(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    library = tmp_path / "lib" / f"libpython{VERSION}.so.1.0"
    library.parent.mkdir()
    library.touch()
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: str(library.parent))
    return library


def test_a_missing_package_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    message = "nvidia-pytriton is not installed; run: pip install 'hytrec-export[embedded]'"
    with pytest.raises(MissingPackageError, match=f"^{re.escape(message)}$"):
        Installation.find()


def test_a_python_without_a_stub_is_said(wheel: Path) -> None:
    shutil.rmtree(wheel / "tritonserver" / "python_backend_stubs" / VERSION)
    message = (
        f"nvidia-pytriton has no python backend for Python {VERSION} (it has 3.9); use one of these Python versions"
    )
    with pytest.raises(ServerError, match=f"^{re.escape(message)}$"):
        Installation.find()


def test_missing_bash_is_said(wheel: Path, libpython: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = "tritonserver starts python models with bash, which is not on PATH; install bash"
    with pytest.raises(ServerError, match=f"^{re.escape(message)}$"):
        Installation.find()


def test_a_missing_libpython_is_said_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_LIBRARY_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(installation, "sys", SimpleNamespace(base_prefix=str(tmp_path)))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: None)
    message = (
        "libpython3.11.so.1.0 is not installed, and Triton's python models need it; "
        "run: apt-get install libpython3.11 (or use a Python built with --enable-shared)"
    )
    with pytest.raises(ServerError, match=f"^{re.escape(message)}$"):
        find_libpython("3.11")


def test_a_static_interpreter_takes_the_systems_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "system"
    system.mkdir()
    (system / "libpython3.11.so.1.0").touch()
    monkeypatch.setattr(installation, "_LIBRARY_FOLDERS", (str(system),))
    monkeypatch.setattr(installation, "sys", SimpleNamespace(base_prefix=str(tmp_path)))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: str(tmp_path))
    assert find_libpython("3.11") == system / "libpython3.11.so.1.0"


def test_the_backend_folder_holds_the_backend_and_this_pythons_stub(
    wheel: Path, libpython: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "server"
    backends = Installation.find().link(folder)
    assert sorted(path.name for path in (backends / "python").iterdir()) == [
        "libtriton_python.so",
        "triton_python_backend_stub",
    ]
    assert (backends / "python" / "triton_python_backend_stub").resolve().parent.name == VERSION
    assert (folder / "lib" / libpython.name).resolve() == libpython


def test_the_server_finds_its_libraries_and_this_interpreter_first(
    wheel: Path, libpython: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    variables = Installation.find().environment(tmp_path)
    libraries = variables["LD_LIBRARY_PATH"].split(os.pathsep)
    assert libraries == [str(tmp_path / "lib"), str(wheel.parent / "nvidia_pytriton.libs"), "/elsewhere"]
    assert variables["PATH"].split(os.pathsep)[0] == str(ascii_environment(tmp_path))
    assert variables["PATH"].endswith(os.environ["PATH"])


def test_no_empty_folder_is_searched_for_libraries(
    wheel: Path, libpython: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert "" not in Installation.find().environment(tmp_path)["LD_LIBRARY_PATH"].split(os.pathsep)


def test_freed_memory_stays_with_the_server_unless_malloc_variables_are_set(
    wheel: Path, libpython: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MALLOC:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")
    variables = Installation.find().environment(tmp_path)
    assert int(variables["MALLOC_TRIM_THRESHOLD_"]) > int(variables["MALLOC_MMAP_THRESHOLD_"]) > 2**20
    assert variables["MALLOC_TOP_PAD_"] == "0"
    assert variables["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert Installation.find().environment(tmp_path)["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"
