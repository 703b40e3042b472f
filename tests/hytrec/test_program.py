from __future__ import annotations

import sys

import pytest
import typer

from hytrec.errors import HytrecError
from hytrec.program import INTERRUPTED, run_program

EXTRAS = {"torch": "train"}


def test_a_program_that_ends_well_is_left_alone() -> None:
    ran: list[bool] = []
    run_program(lambda: ran.append(True), extras=EXTRAS)
    assert ran == [True]


def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HytrecError("width 7 is odd"), "error: width 7 is odd\n"),
        (
            ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"),
            "error: torch is not installed; run: pip install 'hytrec-export[train]'\n",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: failing(error), extras=EXTRAS)
    assert ended.value.code == 1
    assert capsys.readouterr().err == line


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def build() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_program(lambda: app([]), extras=EXTRAS)
    assert ended.value.code == INTERRUPTED
    assert capsys.readouterr().err == "error: interrupted; what stood at the output before stands there still\n"


def test_another_exit_code_is_passed_on_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: sys.exit(3), extras=EXTRAS)
    assert ended.value.code == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), ModuleNotFoundError("no", name="mistyped"), ModuleNotFoundError("no")]
)
def test_anything_else_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_program(lambda: failing(error), extras=EXTRAS)
