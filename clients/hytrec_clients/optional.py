"""tritonclient comes through one function that says which pip command brings it."""

from __future__ import annotations

import importlib
from types import ModuleType

from hytrec_clients.errors import MissingPackageError


def require(module: str) -> ModuleType:
    """Import a module of the `client` extra.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise MissingPackageError(f"{package} is not installed; run: pip install 'hytrec-export[client]'") from error
