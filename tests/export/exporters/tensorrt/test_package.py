from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from hytrec_export.errors import BuildError, MissingPackageError
from hytrec_export.exporters.tensorrt.package import find_tensorrt, version_numbers
from hytrec_export.options import Target


def one_gpu() -> int:
    return 1


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module: Any = ModuleType("tensorrt")
    module.__version__ = version
    monkeypatch.setitem(sys.modules, "tensorrt", module)


def test_tensorrt_for_rtx_needs_no_gpu() -> None:
    found = find_tensorrt(Target.TENSORRT_RTX, gpus=lambda: 0)
    assert found.ahead_of_time
    assert found.version.startswith("1.7.")


def test_tensorrt_without_a_gpu_says_what_to_run() -> None:
    message = (
        "^target tensorrt compiles on the GPU that it compiles for, and no GPU was found; run this on a GPU node, or "
        "without a GPU: hytrec-export build RUN --target tensorrt-rtx --compute-capability sm86$"
    )
    with pytest.raises(BuildError, match=message):
        find_tensorrt(Target.TENSORRT, gpus=lambda: 0)


@pytest.mark.parametrize(
    ("target", "package", "extra"),
    [(Target.TENSORRT, "tensorrt", "tensorrt"), (Target.TENSORRT_RTX, "tensorrt_rtx", "tensorrt-rtx")],
)
def test_a_missing_package_is_told_with_its_command(
    monkeypatch: pytest.MonkeyPatch, target: Target, package: str, extra: str
) -> None:
    class Hidden:
        def find_spec(self, name: str, *_: object) -> None:
            if name == package:
                raise ModuleNotFoundError(name=name)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(
        MissingPackageError, match=rf"^{package} is not installed; run: pip install 'hytrec-export\[{extra}\]'$"
    ):
        find_tensorrt(target, gpus=one_gpu)


def test_a_package_without_its_libraries_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "tensorrt":
                raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    message = (
        r"^tensorrt cannot be loaded \(libnvinfer.so.11: cannot open shared object file\); "
        r"run: pip install --force-reinstall 'hytrec-export\[tensorrt\]'$"
    )
    with pytest.raises(MissingPackageError, match=message):
        find_tensorrt(Target.TENSORRT, gpus=one_gpu)


@pytest.mark.parametrize("version", ["10.12.0.36", "10.16.1.11", "11.4.0.106"])
def test_known_versions_are_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(monkeypatch, version)
    found = find_tensorrt(Target.TENSORRT, gpus=one_gpu)
    assert (found.version, found.ahead_of_time) == (version, False)


@pytest.mark.parametrize("version", ["8.6.1", "10.11.0.33", "12.0.0"])
def test_unknown_versions_are_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(monkeypatch, version)
    message = f"^tensorrt {version} is installed; 10.12 to 11 are known here, run: pip install 'tensorrt>=10.12,<12'$"
    with pytest.raises(BuildError, match=message):
        find_tensorrt(Target.TENSORRT, gpus=one_gpu)


def test_a_versions_numbers_end_where_letters_begin() -> None:
    assert version_numbers("10.14.1.48.post1") == (10, 14, 1, 48)
    assert version_numbers("unknown") == ()
