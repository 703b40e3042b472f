from __future__ import annotations

import math
import sys

import pytest

from hytrec_export.errors import MissingPackageError
from hytrec_export.optional import require


def test_what_is_installed_is_imported() -> None:
    assert require("math", extra="export") is math


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.inner"])
def test_the_pip_command_of_what_is_missing_is_told(module: str) -> None:
    message = r"^no_such_package is not installed; run: pip install 'hytrec-export\[export\]'$"
    with pytest.raises(MissingPackageError, match=message):
        require(module, extra="export")


def test_what_an_installed_package_misses_is_named(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "half_installed.py").write_text("import missing_dependency")  # type: ignore[operator]
    monkeypatch.delitem(sys.modules, "half_installed", raising=False)
    with pytest.raises(MissingPackageError, match=r"^missing_dependency is not installed; run: pip install "):
        require("half_installed", extra="embedded")
