"""Optional packages come through one function that says which pip command brings them."""

from __future__ import annotations

import importlib
from types import ModuleType

from hytrec_export.errors import MissingPackageError


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`.

    Raises:
        MissingPackageError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise MissingPackageError(f"{package} is not installed; run: pip install 'hytrec-export[{extra}]'") from error
