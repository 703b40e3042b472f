"""tritonclient comes through one function that says which pip command brings it."""

from __future__ import annotations

import importlib
from types import ModuleType

from hytrec.optional import missing_package
from hytrec_clients.errors import MissingPackageError


def require(module: str) -> ModuleType:
    """Import a module of the `client` extra.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(missing_package(error.name or module, extra="client")) from error
