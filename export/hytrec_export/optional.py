"""Optional packages come through two functions that say which pip command brings them."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType

from hytrec.optional import missing_package
from hytrec_export.errors import MissingPackageError


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`.

    Raises:
        MissingPackageError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(missing_package(error.name or module, extra=extra)) from error


def check_installed(package: str, *, extra: str) -> None:
    """Look for a top-level package without importing it.

    Raises:
        MissingPackageError: it is not installed; the message names the extra that brings it.
    """
    if find_spec(package) is None:
        raise MissingPackageError(missing_package(package, extra=extra))
