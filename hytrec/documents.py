"""JSON documents as dataclasses, checked while they are read: types, missing fields, unknown fields."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, TypeVar, get_type_hints

import msgspec

from hytrec.errors import ConfigError

__all__ = ["decode_document", "document_from"]

DocumentT = TypeVar("DocumentT")


def decode_document(content: bytes, kind: type[DocumentT]) -> DocumentT:
    """JSON text -> an instance of `kind`.

    Raises:
        ConfigError: as `document_from`, or the text is no JSON.
    """
    try:
        return document_from(msgspec.json.decode(content), kind)
    except msgspec.DecodeError as error:
        raise ConfigError(str(error)) from error


def document_from(values: object, kind: type[DocumentT]) -> DocumentT:
    """Parsed JSON -> an instance of `kind`, a dataclass whose fields may be dataclasses.

    Raises:
        ConfigError: a field is missing, unknown, of another type or out of its range; the message names it.
    """
    try:
        document = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from error
    _check_known(values, kind, "$")
    return document


def _check_known(values: Any, kind: type[Any], place: str) -> None:
    """Msgspec passes over unknown fields of a dataclass."""
    known = get_type_hints(kind)
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"Object contains unknown field `{name}` - at `{place}`; known: {', '.join(known)}")
        if is_dataclass(known[name]):
            _check_known(value, known[name], f"{place}.{name}")
