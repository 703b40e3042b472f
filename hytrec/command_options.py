"""Options of a command from dataclasses, where the name, type, default and help text of each are stated once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, TypeGuard, get_args, get_origin, get_type_hints

import typer

from hytrec.errors import ConfigError

__all__ = ["expand_options"]

Command = Callable[..., None]


def expand_options(command: Command) -> Command:
    """A typer command that takes the fields of its dataclass parameters as options.

        @dataclass(frozen=True, kw_only=True)
        class Limits:
            max_batch: Annotated[int, "Maximum dynamic batch size."] = 64

        @app.command()
        @expand_options
        def build(*, limits: Limits) -> None: ...  # build --max-batch 128

    A field with a help text is an option, or an argument where it has no default; a field that is such a dataclass
    itself is expanded too; every other field keeps its default. A bool is a flag, and one that may be None has its
    opposite too; numbers of a tuple are typed as 1,2,4; the unit of `timeout_s` is no part of --timeout. Further names
    of an option stand after its help text.

    A parameter `Annotated[dict[str, Any], Limits]` gets named arguments of `Limits`, for a command that adds others.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        kind, *rest = get_args(parameter.annotation) or [parameter.annotation]
        group = rest[0] if kind == dict[str, Any] else kind
        if _is_options(group):
            groups[parameter.name] = group
            parameters += _parameters(group)
        else:
            parameters.append(parameter)

    def expanded(**given: Any) -> None:
        for name, group in groups.items():
            arguments = _arguments(group, given)
            given[name] = group(**arguments) if signature.parameters[name].annotation is group else arguments
        command(**given)

    expanded.__name__, expanded.__doc__, expanded.__module__ = command.__name__, command.__doc__, command.__module__
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    expanded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return expanded


def _numbers(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Numbers of a list as 1,2,4; none of an empty text.

    Raises:
        ConfigError: it is no such list.
    """
    try:
        return tuple(kind(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(
            f"{name.replace('_', ' ')} is {text!r}; give numbers with commas between them, as 1,2,4"
        ) from None


def _is_options(kind: object) -> TypeGuard[type[Any]]:
    return isinstance(kind, type) and is_dataclass(kind)


def _parameters(group: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        hint: Any = hints[field.name]
        default: Any = field.default
        if _is_options(hint):
            yield from _parameters(hint)
        elif get_origin(hint) is Annotated:
            kind, text, *others = get_args(hint)
            if default is MISSING:
                default, option = inspect.Parameter.empty, typer.Argument(help=text, show_default=False)
            else:
                name = field.name.removesuffix("_s").replace("_", "-")
                undecided = kind == bool | None
                option = typer.Option(f"--{name}/--no-{name}" if undecided else f"--{name}", *others, help=text)
            if get_origin(kind) is tuple:
                kind, default = str, ",".join(map(str, default))
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
            )


def _arguments(group: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Named arguments of a dataclass, taken out of what was given to the command."""
    arguments = {}
    for name, hint in get_type_hints(group, include_extras=True).items():
        if _is_options(hint):
            arguments[name] = hint(**_arguments(hint, given))
        elif name in given and get_origin(hint) is Annotated:
            kind = get_args(hint)[0]
            value = given.pop(name)
            arguments[name] = _numbers(name, value, get_args(kind)[0]) if get_origin(kind) is tuple else value
    return arguments
