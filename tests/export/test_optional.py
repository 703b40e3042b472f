from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from hytrec_export.errors import MissingPackageError
from hytrec_export.optional import check_installed, require


def test_what_is_installed_is_imported() -> None:
    assert require("math", extra="export") is math


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.inner"])
def test_the_pip_command_of_what_is_missing_is_told(module: str) -> None:
    message = r"^no_such_package is not installed; run: pip install 'hytrec-export\[export\]'$"
    with pytest.raises(MissingPackageError, match=message):
        require(module, extra="export")


def test_what_an_installed_package_misses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "half_installed.py").write_text("import missing_dependency")
    monkeypatch.delitem(sys.modules, "half_installed", raising=False)
    with pytest.raises(MissingPackageError, match=r"^missing_dependency is not installed; run: pip install "):
        require("half_installed", extra="embedded")


def test_a_package_is_looked_for_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "never_imported.py").write_text("raise RuntimeError")
    check_installed("never_imported", extra="export")
    message = r"^no_such_package is not installed; run: pip install 'hytrec-export\[cpu\]'$"
    with pytest.raises(MissingPackageError, match=message):
        check_installed("no_such_package", extra="cpu")
