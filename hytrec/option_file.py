"""Options of a command in a TOML file, and the file that a run writes of its own.

    epochs = 20                  # as --epochs 20; names as on the command line, without the dashes before them
    learning-rate = 0.001
    events = ["clicks.parquet"]  # arguments too; paths are taken from the current directory
    header = false               # as --no-header

What is given on the command line has precedence.
"""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from hytrec.errors import ConfigError

__all__ = ["OPTION_FILE", "option_text", "read_options"]

OPTION_FILE = "run.toml"

_ALLOWED: dict[object, tuple[str, tuple[type, ...]]] = {
    int: ("an integer", (int,)),
    float: ("a number", (int, float)),
    bool: ("true or false", (bool,)),
}
_TEXT = ("a text", (str, int))
"""A column may be a number."""


def read_options(file: Path, command: Callable[..., object], *, left_out: Collection[str] = ()) -> dict[str, Any]:
    """The options in a file by the names of a command's parameters, as the command line's parser takes them.

    Args:
        file: TOML.
        command: every parameter of its signature is `Annotated`.
        left_out: parameters that cannot stand in a file.

    Raises:
        ConfigError: the file is missing or no TOML, or an option in it is unknown or of another type.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} is not there; give a TOML file, as the {OPTION_FILE} of a run") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is no TOML file ({error}); write options as: epochs = 20") from None
    kinds = {
        _option(name): (name, get_args(parameter.annotation)[0])
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in left_out
    }
    options = {}
    for option, value in values.items():
        if option not in kinds:
            raise ConfigError(f"{file}: option {option!r} is unknown; allowed: {', '.join(sorted(kinds))}")
        name, kind = kinds[option]
        options[name] = _checked(value, kind, f"{file}: {option}")
    return options


def option_text(values: Mapping[str, Any]) -> str:
    """The text of a file of options: named values of a command; those that are None are left out.

    Args:
        values: texts, numbers, booleans and lists of texts, by the names of a command's parameters.
    """
    lines = [f"{_option(name)} = {_literal(value)}" for name, value in values.items() if value is not None]
    return "\n".join(["# hytrec train --config THIS_FILE --output NEW_RUN trains the same model", *lines]) + "\n"


def _option(parameter: str) -> str:
    return parameter.removesuffix("_s").replace("_", "-")


def _checked(value: Any, kind: Any, place: str) -> Any:
    """Raises: ConfigError: the value is not of that kind."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)  # of X | None
    if any(get_origin(one) is list for one in kinds):
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f'{place} is {value!r}; give a text, or a list of texts as ["a", "b"]')
        return texts
    word, allowed = next((_ALLOWED[one] for one in kinds if one in _ALLOWED), _TEXT)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ConfigError(f"{place} is {value!r}; it must be {word}")
    return str(value) if allowed is _TEXT[1] else value


def _literal(value: Any) -> str:
    """TOML of a value; the escapes of a JSON text are those of a TOML one, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
