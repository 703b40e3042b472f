"""The message for an optional package that is not installed."""

from __future__ import annotations


def missing_package(module: str, *, extra: str) -> str:
    """The package that a module belongs to, and the pip command that brings it."""
    return f"{module.partition('.')[0]} is not installed; run: pip install 'hytrec-export[{extra}]'"
