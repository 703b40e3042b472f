from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from hytrec.command_options import expand_options
from hytrec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: Annotated[int, "D."] = 8
    fast: Annotated[bool, "Go fast."] = False


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: Annotated[str, "Who."]
    timeout_s: Annotated[float, "Seconds."] = 2.5
    request_rates: Annotated[tuple[float, ...], "Requests/s, as 1,2."] = (1.0, 2.5)
    inner: Inner = field(default_factory=Inner)
    hidden: int = 7


@dataclass(frozen=True, kw_only=True)
class Partial:
    items: int
    heads: Annotated[int, "H.", "--attention-heads"] = 2


def made(*arguments: str) -> tuple[Outer, dict[str, Any], int]:
    """What a command gets that is typed with these arguments."""
    seen: list[tuple[Outer, dict[str, Any], int]] = []
    app = typer.Typer()

    @app.command()
    @expand_options
    def command(*, outer: Outer, partial: Annotated[dict[str, Any], Partial], threads: int = 1) -> None:
        """Do it."""
        seen.append((outer, partial, threads))

    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not seen:
        raise result.exception
    return seen[0]


def test_without_options_the_defaults_are_those_of_the_dataclass() -> None:
    assert made("ada") == (Outer(name="ada"), {"heads": 2}, 1)


def test_every_option_arrives() -> None:
    typed = "ada --timeout 3 --request-rates 4,8 --width 16 --fast --heads 4 --threads 2"
    outer = Outer(name="ada", timeout_s=3.0, request_rates=(4.0, 8.0), inner=Inner(width=16, fast=True))
    assert made(*typed.split()) == (outer, {"heads": 4}, 2)
    assert made("ada", "--attention-heads", "3") == (Outer(name="ada"), {"heads": 3}, 1)
    assert made("ada", "--request-rates", "")[0].request_rates == ()


@pytest.mark.parametrize("option", ["--hidden", "--items", "--no-fast"])
def test_a_field_without_a_help_text_is_no_option_and_a_bool_a_flag(option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        made("ada", option)
    assert ended.value.code == 2


def test_lists_of_numbers() -> None:
    message = "request rates is '1;2'; give numbers with commas between them, as 1,2,4"
    with pytest.raises(ConfigError, match=message):
        made("ada", "--request-rates", "1;2")
